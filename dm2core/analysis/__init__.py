"""From finished cells to tables and figures. Reads files only; never imports torch or the trainer."""
