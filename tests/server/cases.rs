//! The independent reference's prompts, and what it made of them.

use serde_json::{Value, json};

use super::{Server, golden};

/// How far an answer may be from the reference.
#[derive(Clone, Copy)]
pub struct Tolerance {
    /// Of log-probabilities.
    pub logprob: f64,
    /// A greedy token may be another where the reference's margin between first and second is no larger, in logits.
    pub margin: f64,
}

/// One prompt and what the reference made of it.
pub struct Case {
    /// For messages.
    pub name: String,
    prompt_ids: Value,
    greedy: Value,
    /// How many of the reference's tokens are asked for.
    length: usize,
}

/// The golden file of a folder.
pub fn golden_file(path: &str) -> Value {
    let text = std::fs::read_to_string(golden(path).join("golden.json")).expect("a golden file");
    serde_json::from_str(&text).expect("JSON")
}

/// All cases of a golden model, whole.
pub fn cases(path: &str) -> Vec<Case> {
    let file = golden_file(path);
    let list = file["cases"].as_array().expect("cases");
    let case = |c: &Value| Case {
        name: format!("{path} {}", c["name"].as_str().unwrap_or("?")),
        prompt_ids: c["prompt_ids"].clone(),
        greedy: c["greedy"].clone(),
        length: c["greedy"]["ids"].as_array().expect("ids").len(),
    };
    list.iter().map(case).collect()
}

impl Case {
    /// Only the first tokens of the continuation.
    pub fn shortened(self, length: usize) -> Self {
        Self { length: length.min(self.length), ..self }
    }

    /// Tokens of the prompt.
    pub fn prompt_length(&self) -> usize {
        self.prompt_ids.as_array().expect("ids").len()
    }

    /// Has the server continue the prompt greedily.
    pub fn ask(&self, server: &Server) -> Value {
        let body = json!({
            "prompt": self.prompt_ids, "max_tokens": self.length, "temperature": 0, "ignore_eos": true,
            "logprobs": 0, "return_token_ids": true,
        });
        server.ok("/v1/completions", &body)
    }

    /// Compares up to the first token that the reference itself found too close to call.
    pub fn check(&self, answer: &Value, tolerance: Tolerance, setting: &str) {
        self.compare(answer, tolerance).unwrap_or_else(|fault| panic!("{} [{setting}]: {fault}", self.name));
    }

    /// The same; what is off.
    pub fn compare(&self, answer: &Value, tolerance: Tolerance) -> Result<(), String> {
        let choice = &answer["choices"][0];
        let ids = choice["completion_token_ids"].as_array().expect("completion_token_ids");
        let logprobs = choice["logprobs"]["token_logprobs"].as_array().expect("token_logprobs");
        if ids.len() != self.length {
            return Err(format!("{} tokens, not {}", ids.len(), self.length));
        }
        for (i, id) in ids.iter().enumerate() {
            let wanted = &self.greedy["ids"][i];
            let close = self.greedy["margins"][i].as_f64().expect("margin") <= tolerance.margin;
            if id != wanted {
                return if close { Ok(()) } else { Err(format!("token {i} is {id}, not {wanted}")) };
            }
            let (got, want) = (logprobs[i].as_f64().expect("logprob"), self.greedy["logprobs"][i].as_f64().unwrap());
            if (got - want).abs() > tolerance.logprob {
                return Err(format!("log-probability {i} is {got}, not {want}"));
            }
        }
        Ok(())
    }
}

/// Every case alone, then all of them at once (several times over, so that they compete), must equal the reference.
pub fn check_all(server: &Server, cases: &[Case], tolerance: Tolerance, setting: &str) {
    for case in cases {
        case.check(&case.ask(server), tolerance, setting);
    }
    check_together(server, cases, tolerance, setting);
}

/// All at once, three times over.
pub fn check_together(server: &Server, cases: &[Case], tolerance: Tolerance, setting: &str) {
    std::thread::scope(|scope| {
        for case in cases.iter().chain(cases).chain(cases) {
            scope.spawn(move || case.check(&case.ask(server), tolerance, &format!("{setting}, together")));
        }
    });
}
