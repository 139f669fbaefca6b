//! Whether requests are traced: what `serve` is told on its command line of it. The rest is in the environment, as
//! FastDeploy has it; see [`crate::traces`].

use clap::{Args, builder::BoolishValueParser};

/// Flags about traces.
#[derive(Debug, Clone, Args)]
pub struct TraceFlags {
    /// Trace requests, as OpenTelemetry does: to a collector that --otlp-traces-endpoint or EXPORTER_OTLP_ENDPOINT names,
    /// else into the log.
    #[arg(long, env = "TRACES_ENABLE", value_parser = BoolishValueParser::new(), help_heading = "Traces")]
    pub trace_enable: bool,
    /// Trace requests, and send their traces there by OTLP over HTTP; without a path, /v1/traces is meant.
    #[arg(long, value_name = "URL", help_heading = "Traces")]
    pub otlp_traces_endpoint: Option<String>,
}
