use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::text::tool_calls::{FORCED_CALLS, TOOL_FORMATS};

/// What a message has become: reasoning, content, and each call's name and arguments.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    reasoning: String,
    content: String,
    calls: Vec<(String, String)>,
}

impl Message {
    fn add(&mut self, parts: Vec<Part>) {
        for part in parts {
            match part {
                Part::Reasoning(text) => self.reasoning.push_str(&text),
                Part::Content(text) => self.content.push_str(&text),
                Part::Call { index, name } => {
                    assert_eq!(index, self.calls.len(), "calls come in order");
                    self.calls.push((name, String::new()));
                }
                Part::Arguments { index, text } => {
                    assert_eq!(index + 1, self.calls.len(), "arguments belong to the last call");
                    self.calls[index].1.push_str(&text);
                }
            }
        }
    }
}

fn read<'p>(format: &MessageFormat, pieces: impl IntoIterator<Item = &'p str>) -> Message {
    let mut parser = format.parser();
    let mut message = Message::default();
    pieces.into_iter().for_each(|piece| message.add(parser.push(piece)));
    message.add(parser.finish());
    message
}

/// A format by the names of its two parsers (empty: none); tools `weather(city: string, days: integer)` and `now()`.
fn format(reasoning: &str, calls: &str) -> MessageFormat {
    let tools = json!([
        {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties":
            {"city": {"type": "string"}, "days": {"type": "integer"}}}}},
        {"type": "function", "function": {"name": "now"}},
    ]);
    let calls = match calls {
        "" => None,
        "json" => Some(CallFormat::Found(&FORCED_CALLS)),
        name => Some(CallFormat::Found(ToolFormat::named(name).expect("a known format"))),
    };
    let reasoning = (!reasoning.is_empty()).then(|| ReasoningFormat::named(reasoning).expect("a known format"));
    let thinking = reasoning.is_some_and(|format| format.from_start);
    let tools = Arc::new(Tools::of(tools.as_array().unwrap()));
    MessageFormat { reasoning, thinking, calls, tools, one_call: false }
}

/// The text, whole and cut at every place, is this message.
fn check(format: &MessageFormat, text: &str, reasoning: &str, content: &str, calls: &[(&str, &str)]) {
    let calls = calls.iter().map(|(name, arguments)| (name.to_string(), arguments.to_string())).collect();
    let expected = Message { reasoning: reasoning.into(), content: content.into(), calls };
    assert_eq!(read(format, [text]), expected, "{text:?} as a whole");
    for (at, _) in text.char_indices() {
        assert_eq!(read(format, [&text[..at], &text[at..]]), expected, "{text:?} cut at {at}");
    }
    let characters: Vec<_> = text.chars().map(String::from).collect();
    assert_eq!(read(format, characters.iter().map(String::as_str)), expected, "{text:?} by characters");
}

#[test]
fn reasoning_is_told_from_content() {
    for (name, text, reasoning, content) in [
        ("qwen3", "<think>\nhm\n</think>\n\nHello", "hm", "Hello"),
        ("qwen3", "Hello <b>you</b> ", "", "Hello <b>you</b> "),
        ("qwen3", "<think>never closed", "never closed", ""),
        ("qwen3", "no opening</think> here", "", "no opening here"),
        ("qwen3", "\n\n<think>a</think>b<think>c</think> d", "ac", "b d"),
        ("deepseek-r1", "hm</think>Hello", "hm", "Hello"),
        ("deepseek-r1", "<think>\nhm</think>Hello", "hm", "Hello"),
        ("deepseek-r1", "hm </thin", "hm </thin", ""),
        ("ernie-x1", "thought \n</think>\n\n<response>\nanswer\n</response>\n", "thought", "answer"),
        ("ernie-x1", "only thoughts\n", "only thoughts\n", ""),
        ("ernie-45-vl", "a\n</think>\n\nb", "a", "b"),
        ("mistral", "[THINK]a[b][/THINK]c", "a[b]", "c"),
        ("seed-oss", "<seed:think>a</seed:think>b", "a", "b"),
        ("hunyuan-a13b", "<think>\na\n</think>\n<answer>\nb\n</answer>", "a", "b"),
        ("granite", "Here's my thought process: a Here is my response: b", "a", "b"),
        (
            "gpt-oss",
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b <c",
            "a",
            "b <c",
        ),
        ("gpt-oss", "<|channel|>commentary<|message|>I will.<|end|>", "", "I will."),
        ("gpt-oss", "no channel at all", "", "no channel at all"),
    ] {
        check(&format(name, ""), text, reasoning, content, &[]);
    }
}

const PARIS: &str = r#"{"city": "Paris"}"#;

#[test]
fn calls_are_read_in_every_format() {
    for (name, text, content, calls) in [
        (
            "hermes",
            "Ok.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>",
            "Ok.",
            &[("weather", PARIS)][..],
        ),
        (
            "hermes",
            "<tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>\n<tool_call>{\"arguments\": {\"city\":\"é}\\\"\"},\"name\":\"weather\"}</tool_call>",
            "",
            &[("now", "{}"), ("weather", "{\"city\":\"é}\\\"\"}")],
        ),
        ("hermes", "<tool_call>{\"name\": \"unknown\"}</tool_call>", "", &[("unknown", "{}")]),
        (
            "hermes",
            "<tool_call>{\"name\": \"now\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call> Done.",
            "Done.",
            &[("now", "{\"a\": 1}")],
        ),
        (
            "ernie-x1",
            "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>\n",
            "",
            &[("weather", PARIS)],
        ),
        ("llama3-json", "{\"name\": \"weather\", \"parameters\": {\"city\": \"Paris\"}}", "", &[("weather", PARIS)]),
        (
            "llama3-json",
            "<|python_tag|>{\"name\": \"now\", \"parameters\": {}}; {\"name\": \"weather\", \"parameters\": {\"city\": \"Paris\"}}",
            "",
            &[("now", "{}"), ("weather", PARIS)],
        ),
        (
            "llama3-json",
            "{\"type\": \"function\", \"function\": {\"name\": \"weather\", \"parameters\": {\"city\": \"Paris\"}}}",
            "",
            &[("weather", PARIS)],
        ),
        ("llama3-json", "{\"name\": \"Ann\", \"age\": 3}", "{\"name\": \"Ann\", \"age\": 3}", &[]),
        ("llama3-json", "[1, 2] and so on", "[1, 2] and so on", &[]),
        (
            "mistral",
            "[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}, {\"name\": \"now\", \"arguments\": {}}]",
            "",
            &[("weather", PARIS), ("now", "{}")],
        ),
        (
            "mistral",
            "Well[TOOL_CALLS]weather[ARGS]{\"city\": \"Paris\"}[TOOL_CALLS]now{}",
            "Well",
            &[("weather", PARIS), ("now", "{}")],
        ),
        (
            "deepseek-v3",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"city\": \"Paris\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "",
            &[("weather", PARIS), ("now", "{}")],
        ),
        (
            "deepseek-v31",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"Paris\"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "",
            &[("weather", PARIS)],
        ),
        (
            "deepseek-v32",
            "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"weather\">\n<｜DSML｜parameter name=\"city\" string=\"true\">Paris</｜DSML｜parameter>\n<｜DSML｜parameter name=\"days\" string=\"false\">2</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
            "",
            &[("weather", "{\"city\": \"Paris\", \"days\": 2}")],
        ),
        (
            "kimi-k2",
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{\"city\": \"Paris\"}<|tool_call_end|><|tool_calls_section_end|>",
            "",
            &[("weather", PARIS)],
        ),
        (
            "qwen3-coder",
            "Ok.\n\n<tool_call>\n<function=weather>\n<parameter=city>\nParis\n\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>",
            "Ok.",
            &[("weather", "{\"city\": \"Paris\\n\", \"days\": 2}")],
        ),
        (
            "qwen3-coder",
            "<tool_call>\n<function=now>\n</function>\n</tool_call>\n<tool_call>\n<function=other>\n<parameter=a>\nx <b> \"c\"\n</parameter>\n<parameter=d>\nTrue\n</parameter>\n</function>",
            "",
            &[("now", "{}"), ("other", "{\"a\": \"x <b> \\\"c\\\"\", \"d\": true}")],
        ),
        (
            "seed-oss",
            "<seed:tool_call>\n<function=weather>\n<parameter=city>Paris</parameter>\n</function>\n</seed:tool_call>",
            "",
            &[("weather", PARIS)],
        ),
        (
            "minimax-m2",
            "<minimax:tool_call>\n<invoke name=\"weather\">\n<parameter name=\"city\">Paris</parameter>\n<parameter name=\"days\">[1, {}]</parameter>\n</invoke>\n</minimax:tool_call>",
            "",
            &[("weather", "{\"city\": \"Paris\", \"days\": [1, {}]}")],
        ),
        (
            "step3",
            "<｜tool_calls_begin｜>\n<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name=\"weather\"><steptml:parameter name=\"city\">Paris</steptml:parameter></steptml:invoke><｜tool_call_end｜>\n<｜tool_calls_end｜>",
            "",
            &[("weather", PARIS)],
        ),
        (
            "glm45",
            "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call><tool_call>now</tool_call>",
            "",
            &[("weather", "{\"city\": \"Paris\", \"days\": 2}"), ("now", "{}"), ("now", "{}")],
        ),
        (
            "granite",
            "<|tool_call|>[{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}]",
            "",
            &[("weather", PARIS)],
        ),
        ("granite-20b-fc", "<function_call> {\"name\": \"now\", \"arguments\": {}}", "", &[("now", "{}")]),
        (
            "internlm",
            "Ok<|action_start|><|plugin|>{\"name\": \"weather\", \"parameters\": {\"city\": \"Paris\"}}<|action_end|>",
            "Ok",
            &[("weather", PARIS)],
        ),
        (
            "jamba",
            "<tool_calls>[\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}\n]</tool_calls>",
            "",
            &[("weather", PARIS)],
        ),
        ("phi4-mini-json", "functools[{\"name\": \"now\", \"arguments\": {}}]", "", &[("now", "{}")]),
        (
            "pythonic",
            "[weather(city='Pa(ri)s', days=2), now()]",
            "",
            &[("weather", "{\"city\": \"Pa(ri)s\", \"days\": 2}"), ("now", "{}")],
        ),
        ("pythonic", "[note(s)] see below", "[note(s)] see below", &[]),
        (
            "pythonic",
            "<|python_start|>[weather(city=\"é, \\\"x\\\"\")]<|python_end|>",
            "",
            &[("weather", "{\"city\": \"é, \\\"x\\\"\"}")],
        ),
        (
            "olmo3",
            "<function_calls>\nweather(city=\"Paris\")\nnow()\n</function_calls>",
            "",
            &[("weather", PARIS), ("now", "{}")],
        ),
        (
            "gpt-oss",
            "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"city\": \"Paris\"}<|call|>",
            "",
            &[("weather", PARIS)],
        ),
        ("gpt-oss", "<|start|>assistant to=functions.now<|channel|>commentary json<|message|>", "", &[("now", "{}")]),
        ("json", " [{\"name\": \"weather\", \"parameters\": {\"city\": \"Paris\"}}]", "", &[("weather", PARIS)]),
    ] {
        check(&format("", name), text, "", content, calls);
    }
}

#[test]
fn what_is_no_call_is_content_and_shows_no_mark() {
    for (name, text, content, calls) in [
        ("hermes", "a <tool_call> b </tool_call> c", "a b c", &[][..]),
        ("hermes", "<tool_call>{\"nam\": 1}</tool_call>", "{\"nam\": 1}", &[]),
        ("hermes", "<tool_call>{\"name\": \"f\"", "{\"name\": \"f\"", &[]),
        ("hermes", "<tool_call>{\"name\": 3, \"a\": 1}", "{\"name\": 3, \"a\": 1}", &[]),
        ("hermes", "<tool_call>{\"name\": \"f\", oops</tool_call>", "{\"name\": \"f\", oops", &[]),
        (
            "hermes",
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": [1}</tool_call> b",
            "} b",
            &[("f", "{\"a\": [1")],
        ),
        ("hermes", "<tool_call>x<tool_call>{\"name\": \"f\"}</tool_call>", "x", &[("f", "{}")]),
        ("hermes", "a <tool_c", "a <tool_c", &[]),
        ("qwen3-coder", "<tool_call>{\"a\": 1}</tool_call>", "{\"a\": 1}", &[]),
        ("deepseek-v31", "<｜tool▁call▁begin｜> {}", "{}", &[]),
        ("mistral", "[TOOL_CALLS][TOOL_CALLS]now{}", "", &[("now", "{}")]),
        ("pythonic", "[weather(1)]", "1)]", &[("weather", "{")]),
        ("phi4-mini-json", "import functools\n", "import functools\n", &[]),
        ("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": {}, \"arguments\": {}}", "", &[("f", "{}")]),
        ("minimax-m2", "<invoke name=\"now<invoke name=\"", "now", &[]),
        ("pythonic", "[]", "[]", &[]),
    ] {
        check(&format("", name), text, "", content, calls);
    }
}

#[test]
fn a_call_ends_the_reasoning_it_stands_in() {
    let format = format("ernie-x1", "ernie-x1");
    let call = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"</think>\"}}\n</tool_call>\n";
    let arguments = "{\"city\": \"</think>\"}";
    check(&format, &format!("hm\n</think>\n\n{call}"), "hm", "", &[("weather", arguments)]);
    check(&format, &format!("hm\n{call}then"), "hm", "then", &[("weather", arguments)]);
    check(&format, "I may <tool_call> something</think>x", "I may something", "x", &[]);
}

#[test]
fn the_first_call_can_be_the_end() {
    let one = MessageFormat { one_call: true, ..format("", "mistral") };
    let text = "[TOOL_CALLS][{\"name\": \"now\", \"arguments\": {}}, {\"name\": \"now\", \"arguments\": {}}] more";
    check(&one, text, "", "", &[("now", "{}")]);
    let mut parser = one.parser();
    parser.push(&text[..41]);
    assert!(!parser.is_over());
    parser.push(&text[41..]);
    assert!(parser.is_over());
}

#[test]
fn all_content_can_be_one_calls_arguments() {
    let calls = Some(CallFormat::Arguments("weather".into()));
    let format = MessageFormat { calls, ..format("deepseek-r1", "") };
    check(&format, "hm</think>\n {\"city\": \"<think>\"} ", "hm", "", &[("weather", "{\"city\": \"<think>\"} ")]);
    check(&format, "hm", "hm", "", &[]);
    let channels = MessageFormat { reasoning: ReasoningFormat::named("gpt-oss"), thinking: false, ..format };
    let text = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>{}";
    check(&channels, text, "hm", "", &[("weather", "{}")]);
}

#[test]
fn text_is_not_held_back_without_need() {
    let mut parser = format("qwen3", "hermes").parser();
    for (piece, expected) in [
        ("a < b", vec![Part::Content("a < b".into())]),
        (" <tool", vec![]),
        ("s>", vec![Part::Content(" <tools>".into())]),
        (
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\"",
            vec![Part::Call { index: 0, name: "f".into() }, Part::Arguments { index: 0, text: "{\"a\"".into() }],
        ),
        (": 1", vec![Part::Arguments { index: 0, text: ": 1".into() }]),
    ] {
        assert_eq!(parser.push(piece), expected, "{piece:?}");
    }
}

#[test]
fn special_tokens_of_the_format_are_needed() {
    let format = format("qwen3", "internlm");
    for (token, needed) in [("<think>", true), ("<|plugin|>", true), ("</s>", false), (" ", false), ("", false)] {
        assert_eq!(format.needs(token), needed, "{token:?}");
    }
}

/// Pieces that make trouble: all marks of a format, beginnings of them, JSON, white space.
fn pieces_of(format: &MessageFormat) -> impl Strategy<Value = Vec<String>> + use<> {
    let mut words: Vec<String> = format.marks().iter().map(|(mark, _)| mark.to_string()).collect();
    words.extend(harmony::MARKS.iter().filter(|_| format.is_harmony()).map(|mark| mark.to_string()));
    let common = [
        "{\"name\": \"weather\", \"arguments\": {\"city\": \"é\"}}",
        "{\"name\": \"now\"",
        "{",
        "}",
        "[",
        "]",
        ",",
        "\"",
        "\\",
        "\n",
        " ",
        "weather",
        "(",
        ")",
        "city=1",
        "a",
        "é",
        "<",
        ">",
        "city",
        "```json\n",
        "analysis",
        "to=functions.f",
        "<parameter=city>",
        "weather>",
        "</parameter>",
        "</arg_value>",
        ";",
    ];
    words.extend(common.map(String::from));
    prop::collection::vec(prop::sample::select(words), 0..24)
}

fn all_formats() -> Vec<MessageFormat> {
    let calls = TOOL_FORMATS.iter().map(|calls| calls.names[0]).chain(["json"]);
    let calls = calls.map(|name| format(if name == "gpt-oss" { "gpt-oss" } else { "qwen3" }, name));
    calls.chain(["ernie-x1", "granite", "mistral"].map(|name| format(name, "hermes"))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// However a text is cut, the message is the same, and none of its text shows a mark.
    #[test]
    fn any_cutting_gives_the_same(
        (format, words) in prop::sample::select(all_formats()).prop_flat_map(|format| {
            let words = pieces_of(&format);
            (Just(format), words)
        }),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let text = words.concat();
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| *cut.get(&places)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let whole = read(&format, [text.as_str()]);
        prop_assert_eq!(&read(&format, cuts.windows(2).map(|pair| &text[pair[0]..pair[1]])), &whole);
        prop_assert_eq!(&read(&format, places.windows(2).map(|pair| &text[pair[0]..pair[1]])), &whole);
        if !format.is_harmony() {
            for (mark, _) in format.marks() {
                // Marks may come to be where others were taken out between, as in `<tool_<tool_call>call>`.
                let clean = !words.iter().any(|word| word == "<" || word == "\n" || word == " ");
                prop_assert!(!clean || !whole.content.contains(mark), "{} in {:?}", mark, whole);
            }
        }
    }
}
