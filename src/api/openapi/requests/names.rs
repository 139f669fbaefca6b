//! The names of a request's fields, as they are described.

use std::{
    any::TypeId,
    collections::{HashMap, HashSet},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use utoipa::{
    ToSchema,
    openapi::{RefOr, Schema},
};

/// What was described before: making a description takes as long as all the rest of a small request.
static KNOWN: LazyLock<Mutex<HashMap<TypeId, Arc<HashSet<String>>>>> = LazyLock::new(Mutex::default);

/// All fields that `T` describes, those of its parts and alternatives too.
pub fn field_names<T: ToSchema + 'static>() -> Arc<HashSet<String>> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(described::<T>())).clone()
}

fn described<T: ToSchema>() -> HashSet<String> {
    let mut schemas = Vec::new();
    T::schemas(&mut schemas);
    let (schemas, mut names) = (schemas.into_iter().collect(), HashSet::new());
    collect(&T::schema(), &schemas, &mut names);
    names
}

fn collect(schema: &RefOr<Schema>, schemas: &HashMap<String, RefOr<Schema>>, names: &mut HashSet<String>) {
    let parts = match schema {
        RefOr::Ref(reference) => {
            let name = reference.ref_location.rsplit('/').next().unwrap_or_default();
            return schemas.get(name).into_iter().for_each(|schema| collect(schema, schemas, names));
        }
        RefOr::T(Schema::Object(object)) => return names.extend(object.properties.keys().cloned()),
        RefOr::T(Schema::AllOf(all)) => &all.items,
        RefOr::T(Schema::OneOf(one)) => &one.items,
        RefOr::T(Schema::AnyOf(any)) => &any.items,
        RefOr::T(_) => return,
    };
    parts.iter().for_each(|part| collect(part, schemas, names));
}

#[cfg(test)]
mod tests {
    use super::{
        super::{ChatRequest, TokenizeRequest},
        *,
    };

    #[test]
    fn parts_and_alternatives_have_their_fields_too() {
        let chat = field_names::<ChatRequest>();
        assert!(["messages", "top_p", "tools", "top_logprobs"].iter().all(|name| chat.contains(*name)), "{chat:?}");
        assert!(!chat.contains("role") && !chat.contains("prompt"));
        let tokenize = field_names::<TokenizeRequest>();
        assert!(["messages", "prompt", "return_token_strs"].iter().all(|name| tokenize.contains(*name)));
    }
}
