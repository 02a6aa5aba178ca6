"""One module per input format; each turns a file into batches. Nothing here knows what a record is."""
