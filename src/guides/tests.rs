//! Whatever is allowed leads to a text of the form that was asked for, for every kind of tokenizer.

use std::sync::Arc;

use serde_json::{Value, json};
use workers::link::mask::Allowed;

use super::{
    structural_tag::{StructuralTag, Structure},
    *,
};

/// Steps that a walk may take before its text must have ended.
const STEPS_MAX: usize = 600;
const WALKS: u64 = 12;

fn guides(model: &str, whitespace: Whitespace) -> Guides {
    let tokenizer = Arc::new(Tokenizer::from_folder(&crate::fixtures::golden("models").join(model)).unwrap());
    let eos = tokenizer.eos().unwrap();
    // A vocabulary that is padded, as many models' are.
    Guides::new(tokenizer.clone(), tokenizer.vocab_size() + 77, &[eos], Settings { is_on: true, whitespace })
}

/// The text of a random walk through what is allowed, to its end.
fn walk(guides: &Guides, mut guide: impl Guide, seed: u64) -> String {
    let ids = steps(guides, &mut guide, seed, |_| false);
    guides.tokenizer.decode(&ids, false)
}

/// The tokens of such a walk, to the end or until `is_enough`.
fn steps(guides: &Guides, guide: &mut impl Guide, seed: u64, is_enough: impl Fn(&[u32]) -> bool) -> Vec<u32> {
    let (mut ids, mut state) = (Vec::new(), seed);
    let text = |ids: &[u32]| guides.tokenizer.decode(ids, false);
    for step in 0..STEPS_MAX {
        if is_enough(&ids) {
            return ids;
        }
        let allowed = guide.allowed().unwrap_or_else(|error| panic!("{error} after {:?}", text(&ids)));
        let (ends, others): (Vec<u32>, Vec<u32>) = (0..guides.vocabulary_size as u32)
            .filter(|&id| allowed.contains(id))
            .partition(|id| guides.eos_ids.contains(id));
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = (state >> 33) as usize;
        // An end is taken with a good chance, that the walk may not be long.
        if others.is_empty()
            || (!ends.is_empty() && allowed != Allowed::All && (random.is_multiple_of(3) || step > STEPS_MAX / 2))
        {
            assert!(!ends.is_empty(), "nothing may follow {:?}", text(&ids));
            return ids;
        }
        let id = others[random % others.len()];
        let is_padding = id as usize >= guides.tokenizer.vocab_size();
        assert!(!is_padding || allowed == Allowed::All, "padding was allowed");
        ids.push(id);
        guide.take(id).unwrap();
    }
    panic!("no end after {:?}", text(&ids));
}

/// Every walk, under every tokenizer, ends with a text that `fits`.
fn check(grammar: &Grammar, fits: impl Fn(&str) -> bool) {
    for model in ["llama3_rope", "ernie45", "qwen3"] {
        let guides = guides(model, Whitespace::Compact);
        let compiled = guides.compile(grammar).unwrap_or_else(|error| panic!("{grammar:?}: {error}"));
        for seed in 0..WALKS {
            let text = walk(&guides, compiled.guide(), seed);
            assert!(fits(&text), "{model}, {seed}: {text:?} for {grammar:?}");
        }
    }
}

fn is_json(text: &str, fits: impl Fn(&Value) -> bool) -> bool {
    serde_json::from_str(text).is_ok_and(|value| fits(&value))
}

#[test]
fn json_fits_its_schema() {
    let person = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
            "more": {"oneOf": [{"type": "null"}, {"$ref": "#/$defs/flag"}]},
        },
        "required": ["name", "age"],
        "additionalProperties": false,
        "$defs": {"flag": {"type": "boolean"}},
    });
    let fits = |person: &Value| {
        person["name"].as_str().is_some_and(|name| name.chars().count() <= 8)
            && person["age"].as_u64().is_some_and(|age| age <= 150)
            && person.get("tags").is_none_or(|tags| tags.as_array().is_some_and(|tags| tags.len() <= 3))
            && person.get("more").is_none_or(|more| more.is_null() || more.is_boolean())
    };
    check(&Grammar::JsonSchema(person), |text| is_json(text, fits));
    let fixed = json!({"a": [1, "é\n你"]});
    check(&Grammar::JsonSchema(json!({"const": fixed})), |text| is_json(text, |value| *value == fixed));
}

#[test]
fn a_text_fits_its_expression_choice_or_grammar() {
    check(&Grammar::Regex("^[a-c]{2,5}(-[0-9]+)?$".into()), |text| {
        let (letters, digits) = text.split_once('-').unwrap_or((text, "0"));
        (2..=5).contains(&letters.len())
            && letters.bytes().all(|byte| b"abc".contains(&byte))
            && digits.parse::<f64>().is_ok()
    });
    let choices = ["yes", "no", "so-so 你好", "a \"quoted\"\\ one\n", "yesterday"];
    check(&Grammar::Choice(choices.map(String::from).to_vec()), |text| choices.contains(&text));
    let sums = "start: term (\"+\" term)*\nterm: NUMBER | \"(\" start \")\"\nNUMBER: /[0-9]{1,3}/";
    check(&Grammar::Text(sums.into()), |text| {
        let depth = text.chars().try_fold(0i32, |depth, letter| match letter {
            '(' => Some(depth + 1),
            ')' if depth == 0 => None,
            ')' => Some(depth - 1),
            '+' | '0'..='9' => Some(depth),
            _ => None,
        });
        depth == Some(0) && !text.is_empty()
    });
}

/// The same language in both notations; the second has no recursion, and needs it to be seen as a whole.
#[test]
fn gbnf_is_understood() {
    let sums = "root ::= term (\"+\" term)*\nterm ::= [0-9]{1,3} |\n \"(\" root \")\" # nested\n";
    check(&Grammar::Text(sums.into()), |text| {
        let closed = text.matches('(').count() == text.matches(')').count();
        closed && text.chars().all(|letter| "0123456789+()".contains(letter)) && !text.is_empty()
    });
    let ambiguous = "root ::= a a? \"ab\" | \"\\u4f60\"\na ::= \"a\" | [^\\x00-\\uffff] | \"aa\"";
    let guides = guides("llama3_rope", Whitespace::Any);
    let compiled = guides.compile(&Grammar::Text(ambiguous.into())).unwrap();
    for text in ["aab", "aaab", "aaaaab", "你", "😀ab"] {
        let mut guide = compiled.guide();
        for id in guides.tokenizer.encode(text, false).unwrap() {
            assert!(guide.allowed().unwrap().contains(id), "{text}");
            guide.take(id).unwrap();
        }
        assert!(guide.allowed().unwrap().contains(guides.eos_ids[0]), "{text}");
    }
}

#[test]
fn forced_calls_are_calls() {
    let tools = [
        json!({"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["a"], "additionalProperties": false, "$defs": {"n": {"type": "integer"}}}}}),
        json!({"type": "function", "function": {"name": "now"}}),
    ];
    let is_call = |call: &Value| match call["name"].as_str() {
        Some("add") => call["parameters"]["a"].is_number(),
        Some("now") => call["parameters"] == json!({}),
        _ => false,
    };
    let are_calls = |calls: &Value| calls.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(is_call));
    check(&tools::required(&tools, true), |text| is_json(text, are_calls));
    check(&tools::required(&tools, false), |text| is_json(text, |calls| are_calls(calls) && calls[1].is_null()));
    check(&tools::named(&tools[0]), |text| is_json(text, |arguments| arguments["a"].is_number()));
}

#[test]
fn structures_are_kept_within_free_text() {
    let schema = json!({"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"], "additionalProperties": false});
    let structure = |name: &str| Structure { begin: format!("<{name}>"), schema: schema.clone(), end: "</>".into() };
    let tag =
        StructuralTag { structures: vec![structure("f"), structure("g")], triggers: vec!["<f".into(), "<g".into()] };
    let grammar = Grammar::StructuralTag(tag);
    let fits = |text: &str| {
        ["<f", "<g"].iter().all(|trigger| {
            text.split(trigger)
                .skip(1)
                .all(|rest| ["true", "false"].iter().any(|value| rest.starts_with(&format!(">{{\"x\":{value}}}</>"))))
        })
    };
    check(&grammar, fits);
    // Random text hardly ever comes upon a trigger, so that one is begun here.
    let guides = guides("llama3_rope", Whitespace::Compact);
    let mut guide = guides.compile(&grammar).unwrap().guide();
    for id in guides.tokenizer.encode("so <f>{\"x\":true", false).unwrap() {
        assert!(guide.allowed().unwrap().contains(id), "{:?}", guides.tokenizer.token_text(id));
        guide.take(id).unwrap();
    }
    let closing = guides.tokenizer.encode("}", false).unwrap()[0];
    let allowed = guide.allowed().unwrap();
    assert!(allowed.contains(closing) && !allowed.contains(guides.eos_ids[0]));
    assert!((0..1024).filter(|&id| allowed.contains(id)).count() < 10);
}

#[test]
fn at_the_end_only_the_end_is_allowed() {
    let guides = guides("ernie45", Whitespace::Any);
    let mut guide = guides.compile(&Grammar::Choice(vec!["a".into()])).unwrap().guide();
    guide.take(guides.tokenizer.token_id("a").unwrap()).unwrap();
    assert_eq!(guide.allowed(), Ok(Allowed::Only(guides.eos_ids.clone())));
    guide.take(guides.eos_ids[0]).unwrap();
    assert_eq!(guide.allowed(), Ok(Allowed::Only(guides.eos_ids.clone())));
}

#[test]
fn reasoning_is_cut_at_its_budget_and_followed_by_the_form() {
    let choices = ["yes", "no"];
    let form = Grammar::Choice(choices.map(String::from).to_vec());
    let format = ReasoningFormat::named("qwen3").unwrap();
    for model in ["llama3_rope", "ernie45", "qwen3"] {
        let guides = guides(model, Whitespace::Any);
        let form = guides.compile(&form).unwrap();
        for (seed, budget) in (0..WALKS).zip([0, 1, 5, 20].into_iter().cycle()) {
            let guide = guides.thinking(format, Begins::Thinking, Some(budget)).unwrap().guide(Some(&form));
            let text = walk(&guides, guide, seed);
            let (_, answer) = text.split_once("</think>").unwrap_or_else(|| panic!("{text:?}"));
            assert!(choices.contains(&answer), "{model}: {text:?}");

            let is_enough = |ids: &[u32]| guides.tokenizer.decode(ids, false).contains("</think>");
            let mut guide = guides.thinking(format, Begins::Thinking, Some(budget)).unwrap().guide(None);
            let ids = steps(&guides, &mut guide, seed, is_enough);
            // The mark is one token or spelled in several.
            assert!(ids.len() <= budget as usize + "</think>".len() + 1, "{model}: {ids:?}");
            assert_eq!(guide.allowed(), Ok(Allowed::All));
        }
    }
}

#[test]
fn a_model_that_may_think_either_thinks_or_answers() {
    let guides = guides("llama3_rope", Whitespace::Any);
    let form = guides.compile(&Grammar::Choice(vec!["<yes>".into(), "no".into()])).unwrap();
    let thinking = guides.thinking(ReasoningFormat::usual(), Begins::Undecided, Some(3)).unwrap();
    let (mut thought, mut answered) = (0, 0);
    for seed in 0..60 {
        let text = walk(&guides, thinking.guide(Some(&form)), seed);
        let answer = match text.trim_start().strip_prefix("<think>") {
            Some(rest) => rest.split_once("</think>").unwrap_or_else(|| panic!("{text:?}")).1,
            None => &text,
        };
        assert!(["<yes>", "no"].contains(&answer), "{text:?}");
        thought += usize::from(answer != text);
        answered += usize::from(answer == text);
    }
    assert!(thought > 0 && answered > 0, "{thought} thought, {answered} answered");
}

#[test]
fn what_can_not_be_is_refused_in_one_line_that_tells_where() {
    let guides = guides("llama3_rope", Whitespace::Any);
    let many = |count: usize| (0..count).map(|index| format!("r{index}: r{} \"x\"\n", index + 1)).collect::<String>();
    let deep = |depth: usize| (0..depth).fold(json!({"type": "nothing"}), |inner, _| json!({"items": inner}));
    for (grammar, told) in [
        (Grammar::JsonSchema(json!({"properties": {"a": {"type": "strin"}}})), "Invalid type: strin, at /properties/a"),
        (Grammar::JsonSchema(json!({"$ref": "https://example.com/schema.json"})), "https://example.com/schema.json"),
        (Grammar::JsonSchema(json!({"items": {"$ref": "#/$defs/none"}})), "#/$defs/none"),
        (Grammar::JsonSchema(json!({"$ref": "#"})), "no text fits it"),
        (Grammar::JsonSchema(json!({"properties": {"a": {"not": {}}}})), ", at /properties/a"),
        (Grammar::JsonSchema(json!({"type": "integer", "minimum": 3, "maximum": 2})), "minimum (3)"),
        (Grammar::JsonSchema(json!({"enum": ["a".repeat(1 << 20)]})), "at most"),
        (Grammar::JsonSchema(deep(100)), "Invalid type: nothing"),
        (Grammar::Regex("a(b".into()), "at character 2: unclosed group"),
        (Grammar::Regex("a(?=b)".into()), "look-ahead"),
        (Grammar::Regex(String::new()), "empty"),
        (Grammar::Regex("a\\".into()), "backslash"),
        (Grammar::Regex("(".repeat(10_000) + &")".repeat(10_000)), "regular expression"),
        (Grammar::Regex("a".repeat(100_000)), "at most"),
        (Grammar::Choice(vec![]), "at least one"),
        (Grammar::Choice(vec!["a".into(), String::new()]), "empty"),
        (Grammar::Text("start: a\na: \"x\" b".into()), "line 2, column 4: unknown name: \"b\""),
        (Grammar::Text("start: \"a\" (".into()), "line 1"),
        (Grammar::Text(String::new()), "no start"),
        (Grammar::Text(format!("start: {}\"a\"{}", "(".repeat(9000), ")".repeat(9000))), "nested"),
        (Grammar::Text(format!("start: r0\n{}", many(1000))), "r1000"),
        (Grammar::StructuralTag(StructuralTag::default()), "triggers"),
    ] {
        let GrammarError::Refused(message) = guides.compile(&grammar).err().unwrap_or_else(|| panic!("{grammar:?}"))
        else {
            panic!("{grammar:?}")
        };
        assert!(message.contains(told) && !message.contains('\n') && message.len() < 400, "{message}");
    }
}

/// Each of these made some library slow, large or end with an overflow of the stack.
#[test]
fn hostile_grammars_cost_little() {
    let guides = guides("llama3_rope", Whitespace::Any);
    let nested = (0..100).fold(json!({"type": "string"}), |inner, _| json!({"type": "array", "items": inner}));
    let rules: String = (0..1000).map(|index| format!("R{index}: R{} \"x\"\n", index + 1)).collect();
    for grammar in [
        Grammar::JsonSchema(nested),
        Grammar::JsonSchema(json!({"type": "string", "minLength": 1_000_000, "maxLength": 2_000_000})),
        Grammar::JsonSchema(json!({"type": "array", "minItems": 100_000, "maxItems": 200_000})),
        Grammar::JsonSchema(json!({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"b": {"$ref": "#/$defs/a"}}}}})),
        Grammar::Regex("(a*)*b".into()),
        Grammar::Regex("(a{1000}){1000}".into()),
        Grammar::Regex("(((a{1,100}){1,100}){1,100}){1,100}".into()),
        Grammar::Regex(".*a.{30}".into()),
        Grammar::Choice((0..10_000).map(|index| format!("choice {index}")).collect()),
        Grammar::Text("start: start start | \"a\"".into()),
        Grammar::Text("start: \"a\"{1,1000000}".into()),
        Grammar::Text(format!("start: R0\n{rules}R1000: \"a\"")),
    ] {
        // Refused or followed, either is fine: it must only not hang, overflow or panic.
        let Ok(compiled) = guides.compile(&grammar) else { continue };
        let mut guide = compiled.guide();
        for _ in 0..30 {
            let Ok(allowed) = guide.allowed() else { break };
            let Some(id) = (0..1024).rev().find(|&id| allowed.contains(id)) else { break };
            if guide.take(id).is_err() {
                break;
            }
        }
    }
}
