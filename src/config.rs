//! Every flag: name, default, bound and help, in one place.
