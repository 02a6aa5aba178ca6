"""The same mathematics on a device: rows that lie there, cells, tiles, products, and the memory for them."""
