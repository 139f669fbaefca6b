//! One endpoint: what it takes, what it answers, how it can fail.

use std::collections::BTreeMap;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Content, HttpMethod, Ref, RefOr, Required, Response, ResponseBuilder, Schema, Type,
        path::{Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn},
        request_body::RequestBodyBuilder,
        schema::{AnyOfBuilder, ObjectBuilder},
    },
};

use crate::api::{answer::Body, error::ErrorObject};

/// The `data` of a stream's last event.
const END_OF_STREAM: &str = "[DONE]";

/// A path and a method, and all there is to know about them.
pub struct Endpoint {
    /// The method.
    pub method: HttpMethod,
    /// The path, `{name}` where it has a part to fill in.
    pub path: &'static str,
    /// The group of endpoints that it belongs to.
    pub tag: &'static str,
    operation: OperationBuilder,
    /// Of 200, by content type.
    answers: BTreeMap<&'static str, Option<RefOr<Schema>>>,
    failures: Vec<u16>,
    /// The body of a failure; OpenAI's where it is none.
    failure: Option<RefOr<Schema>>,
    /// All that the above refer to, by name.
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Endpoint {
    /// One that is read.
    pub fn get(path: &'static str, tag: &'static str, summary: &str) -> Self {
        Self::new(HttpMethod::Get, path, tag, summary)
    }

    /// One that takes a body.
    pub fn post(path: &'static str, tag: &'static str, summary: &str) -> Self {
        Self::new(HttpMethod::Post, path, tag, summary)
    }

    /// One that takes something away.
    pub fn delete(path: &'static str, tag: &'static str, summary: &str) -> Self {
        Self::new(HttpMethod::Delete, path, tag, summary)
    }

    fn new(method: HttpMethod, path: &'static str, tag: &'static str, summary: &str) -> Self {
        let id = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
        let verb = match method {
            HttpMethod::Get => "get",
            HttpMethod::Delete => "delete",
            _ => "post",
        };
        let operation = OperationBuilder::new()
            .tag(tag)
            .summary(Some(summary))
            .operation_id(Some(format!("{verb}{}", path.chars().map(id).collect::<String>())))
            .parameter(request_id());
        Self {
            method,
            path,
            tag,
            operation,
            answers: BTreeMap::new(),
            failures: vec![401],
            failure: None,
            schemas: Vec::new(),
        }
    }

    /// A part of the path.
    pub fn path_part(mut self, name: &str, description: &str) -> Self {
        let part = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some(description))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String).min_length(Some(1))));
        self.operation = self.operation.parameter(part);
        self
    }

    /// A text in the query, which may be absent.
    pub fn query(mut self, name: &str, description: &str) -> Self {
        let text = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Query)
            .required(Required::False)
            .description(Some(description))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
        self.operation = self.operation.parameter(text);
        self
    }

    /// A JSON body, which can be wrong, too large or too slow.
    pub fn takes<T: ToSchema>(mut self) -> Self {
        let content = Content::new(Some(self.refer_to::<T>()));
        let body = RequestBodyBuilder::new().content("application/json", content).required(Some(Required::True));
        self.operation = self.operation.request_body(Some(body.build()));
        self.fails(&[400, 408, 413])
    }

    /// A JSON body of 200.
    pub fn answers<T: ToSchema>(mut self) -> Self {
        let schema = self.refer_to::<T>();
        self.answers.insert("application/json", Some(schema));
        self
    }

    /// The same where answers are [`Body`]s of such choices, which together need a name.
    pub fn answers_choices<C: ToSchema>(mut self, name: &'static str) -> Self {
        let schema = self.refer_to_body::<C>(name);
        self.answers.insert("application/json", Some(schema));
        self
    }

    /// Events of 200 that are [`Body`]s of such choices.
    pub fn streams_choices<C: ToSchema>(mut self, name: &'static str) -> Self {
        let data = self.refer_to_body::<C>(name);
        self.answers.insert("text/event-stream", Some(event(data)));
        self
    }

    /// Events of 200, each with such an object as its `data`; `data: [DONE]` is the last.
    pub fn streams<T: ToSchema>(mut self) -> Self {
        let data = self.refer_to::<T>();
        self.answers.insert("text/event-stream", Some(event(data)));
        self
    }

    /// A body of 200 that is no JSON.
    pub fn answers_text(mut self, content_type: &'static str) -> Self {
        self.answers.insert(content_type, Some(ObjectBuilder::new().schema_type(Type::String).into()));
        self
    }

    /// It can fail so.
    pub fn fails(mut self, statuses: &[u16]) -> Self {
        self.failures.extend(statuses);
        self
    }

    /// Failures have such a body.
    pub fn fails_as<T: ToSchema>(mut self) -> Self {
        self.failure = Some(self.refer_to::<T>());
        self
    }

    /// It needs a place inside and ranks that are ready: it can fail in all the ways that computing can.
    pub fn computes(self) -> Self {
        self.fails(&[404, 408, 429, 499, 500, 503])
    }

    fn refer_to<T: ToSchema>(&mut self) -> RefOr<Schema> {
        self.schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(&mut self.schemas);
        Ref::from_schema_name(T::name()).into()
    }

    fn refer_to_body<C: ToSchema>(&mut self, name: &'static str) -> RefOr<Schema> {
        self.refer_to::<C>();
        self.schemas.push((name.to_owned(), Body::<C>::schema()));
        Body::<C>::schemas(&mut self.schemas);
        Ref::from_schema_name(name).into()
    }

    /// The operation, and the schemas that it refers to.
    pub fn build(mut self) -> (Operation, Vec<(String, RefOr<Schema>)>) {
        let failure = match self.failure.take() {
            Some(own) => own,
            None => self.refer_to::<ErrorObject>(),
        };
        let mut success =
            ResponseBuilder::new().description(if self.answers.is_empty() { "Yes" } else { "The answer" });
        for (content_type, schema) in self.answers {
            success = success.content(content_type, Content::new(schema));
        }
        self.failures.sort_unstable();
        self.failures.dedup();
        let mut operation = self.operation.response("200", success);
        for status in self.failures {
            let content = Content::new(Some(failure.clone()));
            let response = Response::new(meaning(status));
            operation = operation
                .response(status.to_string(), ResponseBuilder::from(response).content("application/json", content));
        }
        (operation.build(), self.schemas)
    }
}

/// A server-sent event: JSON, the answer's next piece or an error; or the word that ends a stream.
fn event(piece: RefOr<Schema>) -> RefOr<Schema> {
    let failure = Ref::from_schema_name(ErrorObject::name());
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let json = text()
        .content_media_type("application/json")
        .content_schema(Some(Schema::from(AnyOfBuilder::new().item(piece).item(failure).build())));
    let end = text().enum_values(Some([END_OF_STREAM])).description(Some("The last event of a stream"));
    let data = AnyOfBuilder::new().item(end).item(json);
    ObjectBuilder::new().property("data", data).required("data").into()
}

/// Every request may name itself.
fn request_id() -> Parameter {
    ParameterBuilder::new()
        .name("X-Request-Id")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("Your name for this request; the answer has it too. Without one, the server makes one."))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[A-Za-z0-9_.:@-]{1,128}$"))))
        .build()
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The request can't be understood, is out of bounds or too long",
        401 => "No API key, or an unknown one",
        404 => "No such thing, or no such model",
        408 => "It waited longer than --max-waiting-time, or its body was too slow",
        413 => "Its body is larger than --max-body-size",
        429 => "Too many requests; Retry-After says when to come again",
        499 => "It was aborted by /v1/abort_requests",
        503 => "Not ready, or shutting down; Retry-After says when to come again",
        _ => "The server's own fault",
    }
}
