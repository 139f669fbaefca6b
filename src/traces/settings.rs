//! Whether there are traces, and where they go: flags, FastDeploy's environment variables, then OpenTelemetry's own.

use std::collections::HashMap;

use ureq::http::Uri;

use crate::config::TraceFlags;

/// What a collector's address ends with where it has no path (OTLP specification, "OTLP/HTTP Request").
const PATH: &str = "/v1/traces";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL";
const SERVICE_NAME: &str = "shardwire";

/// What was decided about traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where they go.
    pub destination: Destination,
    /// What this service is called, unless `OTEL_SERVICE_NAME` says it.
    pub service_name: Option<String>,
    /// What this instance of it is called.
    pub host_name: Option<String>,
    /// The job that it belongs to.
    pub job_id: Option<String>,
}

/// Where traces go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Into the server's own log.
    Log,
    /// To a collector, by OTLP over HTTP in protobuf.
    Collector {
        /// Its whole address.
        url: String,
        /// Headers of every message.
        headers: HashMap<String, String>,
    },
}

impl Settings {
    /// None where nobody asked for traces. `variable` reads the environment.
    pub fn read(flags: &TraceFlags, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        if !flags.trace_enable && flags.otlp_traces_endpoint.is_none() {
            return Ok(None);
        }
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let endpoint = flags.otlp_traces_endpoint.clone();
        let endpoint = endpoint.or_else(|| given("EXPORTER_OTLP_ENDPOINT"));
        let endpoint = endpoint.or_else(|| given("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"));
        let endpoint =
            endpoint.or_else(|| Some(format!("{}{PATH}", given("OTEL_EXPORTER_OTLP_ENDPOINT")?.trim_end_matches('/'))));
        let destination = match (given("TRACES_EXPORTER").as_deref(), endpoint) {
            (None, None) | (Some("console"), _) => Destination::Log,
            (None | Some("otlp"), Some(endpoint)) => collector(&endpoint, &given)?,
            (Some("otlp"), None) => {
                return Err(
                    "TRACES_EXPORTER=otlp: where to? Set --otlp-traces-endpoint or EXPORTER_OTLP_ENDPOINT".into()
                );
            }
            (Some(other), _) => return Err(format!("TRACES_EXPORTER={other}: it can be `console` or `otlp`")),
        };
        let service_name = given("FD_SERVICE_NAME");
        let is_named = given("OTEL_SERVICE_NAME").is_some()
            || given("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|attributes| attributes.contains("service.name="));
        Ok(Some(Self {
            destination,
            service_name: service_name.or_else(|| (!is_named).then(|| SERVICE_NAME.into())),
            host_name: given("FD_HOST_NAME"),
            job_id: given("FD_JOB_ID"),
        }))
    }
}

fn collector(endpoint: &str, given: &impl Fn(&str) -> Option<String>) -> Result<Destination, String> {
    let protocol = given(PROTOCOL).or_else(|| given("OTEL_EXPORTER_OTLP_PROTOCOL"));
    if let Some(protocol) = protocol.filter(|protocol| protocol != "http/protobuf") {
        return Err(format!(
            "traces can't be sent by the protocol {protocol}: set {PROTOCOL}=http/protobuf, and the endpoint to where the \
             collector listens for it, by convention its port 4318"
        ));
    }
    let unusable = |why: &str| format!("the endpoint of traces, {endpoint}, {why}");
    let uri: Uri = endpoint.parse().map_err(|error| unusable(&format!("is no address: {error}")))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(unusable("must begin with http:// or https:// and name a host"));
    }
    let url = match uri.path() {
        "" | "/" => format!("{}{PATH}", endpoint.trim_end_matches('/')),
        _ => endpoint.to_owned(),
    };
    let headers = given("EXPORTER_OTLP_HEADERS").map_or_else(|| Ok(HashMap::new()), |list| headers(&list))?;
    Ok(Destination::Collector { url, headers })
}

/// `name=value`, separated by commas.
fn headers(list: &str) -> Result<HashMap<String, String>, String> {
    let header = |pair: &str| match pair.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        // A value can be a secret.
        _ => Err("EXPORTER_OTLP_HEADERS must be a list NAME=VALUE,NAME=VALUE".to_owned()),
    };
    list.split(',').filter(|pair| !pair.trim().is_empty()).map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(enable: bool, endpoint: Option<&str>, variables: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        let flags = TraceFlags { trace_enable: enable, otlp_traces_endpoint: endpoint.map(str::to_owned) };
        Settings::read(&flags, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn destination(enable: bool, endpoint: Option<&str>, variables: &[(&str, &str)]) -> Destination {
        read(enable, endpoint, variables).expect("it can be read").expect("there are traces").destination
    }

    fn to(url: &str) -> Destination {
        Destination::Collector { url: url.into(), headers: HashMap::new() }
    }

    #[test]
    fn there_are_none_unless_somebody_asks() {
        let variables = [("EXPORTER_OTLP_ENDPOINT", "http://c:4318"), ("TRACES_EXPORTER", "otlp")];
        assert_eq!(read(false, None, &variables), Ok(None));
    }

    #[test]
    fn the_nearest_word_counts() {
        let own = ("EXPORTER_OTLP_ENDPOINT", "http://fastdeploy:4318");
        let whole = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4318/v1/traces");
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://all/otlp/");
        assert_eq!(
            destination(false, Some("http://flag:4318/"), &[own, whole, base]),
            to("http://flag:4318/v1/traces")
        );
        assert_eq!(destination(true, None, &[own, whole, base]), to("http://fastdeploy:4318/v1/traces"));
        assert_eq!(destination(true, None, &[whole, base]), to("http://traces:4318/v1/traces"));
        assert_eq!(destination(true, None, &[base]), to("https://all/otlp/v1/traces"));
        assert_eq!(destination(true, Some("http://h/a/path"), &[]), to("http://h/a/path"));
        assert_eq!(destination(true, None, &[]), Destination::Log);
        assert_eq!(destination(true, None, &[own, ("TRACES_EXPORTER", "console")]), Destination::Log);
    }

    #[test]
    fn who_traces_is_told() {
        let named = [("FD_SERVICE_NAME", "chat"), ("FD_HOST_NAME", "node-7"), ("FD_JOB_ID", "3")];
        let settings = read(true, None, &named).unwrap().unwrap();
        assert_eq!(settings.service_name.as_deref(), Some("chat"));
        assert_eq!((settings.host_name.as_deref(), settings.job_id.as_deref()), (Some("node-7"), Some("3")));
        assert_eq!(read(true, None, &[]).unwrap().unwrap().service_name.as_deref(), Some("shardwire"));
        // The library reads these itself.
        for other in [("OTEL_SERVICE_NAME", "other"), ("OTEL_RESOURCE_ATTRIBUTES", "a=b,service.name=other")] {
            assert_eq!(read(true, None, &[other]).unwrap().unwrap().service_name, None);
        }
    }

    #[test]
    fn headers_are_a_list() {
        let variables = [("EXPORTER_OTLP_HEADERS", "Authentication=Txx=, x-team = a ,")];
        let Destination::Collector { headers, .. } = destination(true, Some("http://c"), &variables) else { panic!() };
        let expected = [("Authentication", "Txx="), ("x-team", "a")];
        assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let grpc = [(PROTOCOL, "grpc")];
        let otlp = [("TRACES_EXPORTER", "otlp")];
        let jaeger = [("TRACES_EXPORTER", "jaeger")];
        let secret = [("EXPORTER_OTLP_HEADERS", "secret")];
        for (endpoint, variables, named) in [
            (Some("http://c:4317"), &grpc, "4318"),
            (None, &otlp, "EXPORTER_OTLP_ENDPOINT"),
            (None, &jaeger, "TRACES_EXPORTER"),
            (Some("http://c"), &secret, "EXPORTER_OTLP_HEADERS"),
            (Some("collector:4318"), &otlp, "http://"),
            (Some("http://"), &otlp, "endpoint"),
        ] {
            let refusal = read(true, endpoint, variables).unwrap_err();
            assert!(refusal.contains(named) && !refusal.contains("secret"), "{refusal}");
        }
    }
}
