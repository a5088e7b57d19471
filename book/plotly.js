/* The part of plotly.js that the book draws with: its lib/core without menus, sliders and range selectors, whose place native
 * controls take, and without 3D. `make plotly` bundles it; a test holds that every trace of the book is in it. */
'use strict';
exports.version = require('plotly.js/src/version').version;
require('plotly.js/build/plotcss');

const { register } = require('plotly.js/src/registry');
const methods = require('plotly.js/src/plot_api');
for (const [name, fn] of Object.entries(methods)) {
  if (!name.startsWith('_')) exports[name] = fn;
  register({ moduleType: 'apiMethod', name, fn });
}
register([
  require('plotly.js/src/traces/scatter'), require('plotly.js/src/traces/bar'),
  require('plotly.js/src/traces/heatmap'), require('plotly.js/src/traces/contour'),
  require('plotly.js/src/components/annotations'), require('plotly.js/src/components/shapes'),
  require('plotly.js/src/components/grid'), require('plotly.js/src/components/errorbars'),
  require('plotly.js/src/components/colorscale'), require('plotly.js/src/components/colorbar'),
  require('plotly.js/src/components/legend'), // after shapes
  require('plotly.js/src/components/fx'), // after the legend
  require('plotly.js/src/components/modebar'),
  require('plotly.js/src/locale-en'), require('plotly.js/src/locale-en-us'),
]);
exports.register = register;
exports.Plots = { resize: require('plotly.js/src/plots/plots').resize };
