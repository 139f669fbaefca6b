//! HTTP: the only room that knows actix or JSON bodies; one file per endpoint.
