//! Every metric: name, unit, help; `/metrics`, `/health`, `/ranks`.
