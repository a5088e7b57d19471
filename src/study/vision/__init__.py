"""Networks for images, text and boxes: Task III and the large experiments."""
