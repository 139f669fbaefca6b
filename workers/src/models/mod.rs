//! The model families: one short file each and one line in the table.
