"""The same mathematics on a device: rows in its memory, cells, tiles, products, and the use of that memory."""
