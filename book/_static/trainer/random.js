/* The generators of torch and of NumPy, draw for draw, so that a seed means here what it means in the package. */

/** The Mersenne Twister (Matsumoto and Nishimura, 1998), seeded as torch.Generator().manual_seed and RandomState are. */
export class Twister {
  constructor(seed) {
    const s = (this.state = new Uint32Array(624));
    s[0] = seed >>> 0;
    for (let i = 1; i < 624; i++) s[i] = Math.imul(1812433253, s[i - 1] ^ (s[i - 1] >>> 30)) + i;
    this.at = 624;
  }

  /** 32 random bits. */
  bits() {
    const s = this.state;
    if (this.at === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (s[i] & 0x80000000) | (s[(i + 1) % 624] & 0x7fffffff);
        s[i] = s[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.at = 0;
    }
    let y = s[this.at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }
}

// Plain loops: the landing page waits for these draws.
function upTo(n) {
  const order = new Int32Array(n);
  for (let i = 0; i < n; i++) order[i] = i;
  return order;
}
function swap(order, i, j) {
  const kept = order[i];
  order[i] = order[j];
  order[j] = kept;
}

/** torch.rand, torch.randint(0, 2) and torch.randperm on the CPU, in double precision. */
export class TorchGenerator extends Twister {
  /** n numbers from [0, 1): the lower 53 of 64 bits. */
  rand(n) {
    const drawn = new Float64Array(n);
    for (let i = 0; i < n; i++) {
      const high = this.bits() & 0x1fffff;
      drawn[i] = (high * 4294967296 + this.bits()) / 9007199254740992;
    }
    return drawn;
  }

  coins(n) {
    return Float64Array.from({ length: n }, () => this.bits() % 2);
  }

  permutation(n) {
    const order = upTo(n);
    for (let i = 0; i < n - 1; i++) swap(order, i, i + (this.bits() % (n - i)));
    return order;
  }
}

/** numpy.random.RandomState: what scikit-learn's make_moons draws from. */
export class RandomState extends Twister {
  uniform() {
    const high = this.bits() >>> 5;
    return (high * 67108864 + (this.bits() >>> 6)) / 9007199254740992;
  }

  /** Standard normal, by Marsaglia's polar method; the second of a pair is kept. */
  normal() {
    if (this.kept !== undefined) {
      const kept = this.kept;
      this.kept = undefined;
      return kept;
    }
    let a, b, r;
    do {
      a = 2 * this.uniform() - 1;
      b = 2 * this.uniform() - 1;
      r = a * a + b * b;
    } while (r >= 1 || r === 0);
    const factor = Math.sqrt((-2 * Math.log(r)) / r);
    this.kept = factor * a;
    return factor * b;
  }

  /** 0 .. n - 1 shuffled; a number up to i is drawn as bits under the next power of two until it fits. */
  permutation(n) {
    const order = upTo(n);
    for (let i = n - 1; i > 0; i--) {
      const mask = 2 ** (32 - Math.clz32(i)) - 1;
      let j;
      do j = this.bits() & mask;
      while (j > i);
      swap(order, i, j);
    }
    return order;
  }
}
