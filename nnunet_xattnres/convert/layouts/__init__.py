"""Where each download keeps its images and masks: one file a layout, with `configure(parser)` and `find(...)`."""
