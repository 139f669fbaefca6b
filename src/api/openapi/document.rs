//! All endpoints as one document.

use utoipa::openapi::{
    Components, InfoBuilder, OpenApi, OpenApiBuilder, OpenApiVersion, PathItem, Paths,
    security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    tag::Tag,
};

use super::endpoints;

/// The description of this server's protocol.
pub fn document() -> OpenApi {
    let (mut paths, mut components, mut tags) = (Paths::new(), keys(), Vec::<Tag>::new());
    for endpoint in endpoints() {
        // Paths are sorted by their names; tags tell in which order people read.
        if tags.iter().all(|tag| tag.name != endpoint.tag) {
            tags.push(Tag::new(endpoint.tag));
        }
        let (path, method) = (endpoint.path, endpoint.method.clone());
        let (operation, schemas) = endpoint.build();
        let item = paths.paths.entry(path.to_owned()).or_insert_with(PathItem::default);
        item.merge_operations(PathItem::new(method, operation));
        components.schemas.extend(schemas);
    }
    let info = InfoBuilder::new()
        .title("Shardwire")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("OpenAI's protocol with FastDeploy's and vLLM's additions, and Anthropic's messages."));
    let either = [SecurityRequirement::default(), named("bearer"), named("x-api-key")];
    OpenApiBuilder::new()
        .openapi(OpenApiVersion::Version31)
        .info(info.build())
        .paths(paths)
        .components(Some(components))
        .security(Some(either))
        .tags(Some(tags))
        .build()
}

/// How a key is sent, where the server wants one.
fn keys() -> Components {
    let mut components = Components::new();
    components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    let header = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("x-api-key")));
    components.add_security_scheme("x-api-key", header);
    components
}

fn named(scheme: &str) -> SecurityRequirement {
    SecurityRequirement::new(scheme, Vec::<String>::new())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// All that is referred to in `value`.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn what_is_referred_to_is_there() {
        let document = serde_json::to_value(document()).unwrap();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.contains("#/components/schemas/Error"), "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("a reference within the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    /// Two structs of one name would silently describe each other.
    #[test]
    fn a_name_means_one_schema() {
        let mut all = std::collections::BTreeMap::new();
        for (name, schema) in endpoints().into_iter().flat_map(|endpoint| endpoint.build().1) {
            let schema = serde_json::to_value(schema).unwrap();
            assert_eq!(*all.entry(name.clone()).or_insert_with(|| schema.clone()), schema, "{name}");
        }
    }
}
