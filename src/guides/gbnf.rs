//! GBNF (llama.cpp's grammars, xgrammar's "EBNF") to Lark.
//!
//! A rule that no recursion leads to becomes a Lark terminal, which is matched as one expression: Lark's rules match their
//! parts one by one, each as long as possible, and would miss some texts. Each rule keeps its line, for messages.

mod lexer;

use std::collections::{HashMap, HashSet};

use self::lexer::{Token, tokens};
use super::{error::GrammarError, grammar::quoted};

/// Whether a grammar is written so: Lark has no `::=`.
pub(super) fn is_gbnf(text: &str) -> bool {
    text.contains("::=")
}

/// The same grammar for Lark.
pub(super) fn to_lark(text: &str) -> Result<String, GrammarError> {
    let rules = rules(text)?;
    let names: HashMap<_, _> = rules.iter().enumerate().map(|(index, rule)| (rule.name.as_str(), index)).collect();
    let Some(&root) = names.get("root") else { return Err(GrammarError::refused("there is no rule `root`")) };
    if let Some((_, rule)) = rules.iter().enumerate().find(|(index, rule)| names[rule.name.as_str()] != *index) {
        return Err(fault(rule.line, &format!("`{}` is defined twice", rule.name)));
    }
    let uses = rules.iter().map(|rule| rule.uses(&names)).collect::<Result<Vec<_>, _>>()?;
    let recursive = recursive(&uses);
    let shown = |index: usize| shown(index, &rules[index].name, recursive.contains(&index));
    let mut lark = String::new();
    for (index, rule) in rules.iter().enumerate() {
        let missing = (rule.line - 1).saturating_sub(lark.matches('\n').count());
        lark.push_str(&"\n".repeat(missing));
        lark.push_str(&format!("{}: {}\n", shown(index), rule.body(|name| shown(names[name]))));
    }
    Ok(format!("{lark}start: {}\n", shown(root)))
}

/// One rule of the grammar.
struct Rule {
    name: String,
    /// Counted from 1.
    line: usize,
    body: Vec<(usize, Token)>,
}

fn rules(text: &str) -> Result<Vec<Rule>, GrammarError> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut tokens = tokens(text)?.into_iter().peekable();
    while let Some((line, token)) = tokens.next() {
        match (token, tokens.peek()) {
            (Token::Name(name), Some((_, Token::Defines))) => {
                tokens.next();
                rules.push(Rule { name, line, body: Vec::new() });
            }
            (Token::Defines, _) => return Err(fault(line, "`::=` must follow the name of a rule")),
            (token, _) => match rules.last_mut() {
                Some(rule) => rule.body.push((line, token)),
                None => return Err(fault(line, "a rule must begin with its name and `::=`")),
            },
        }
    }
    Ok(rules)
}

impl Rule {
    /// The rules that it refers to.
    fn uses(&self, names: &HashMap<&str, usize>) -> Result<Vec<usize>, GrammarError> {
        let mut uses = Vec::new();
        for (line, token) in &self.body {
            if let Token::Name(name) = token {
                let index = names.get(name.as_str());
                uses.push(*index.ok_or_else(|| fault(*line, &format!("the rule `{name}` is not defined")))?);
            }
        }
        Ok(uses)
    }

    fn body(&self, shown: impl Fn(&str) -> String) -> String {
        let mut body = String::new();
        // What begins an alternative, where nothing yet stands in it.
        let mut is_empty = true;
        for (_, token) in &self.body {
            let ends = matches!(token, Token::Mark('|' | ')'));
            if ends && is_empty {
                body.push_str("\"\" ");
            }
            is_empty = matches!(token, Token::Mark('|' | '('));
            match token {
                Token::Name(name) => body.push_str(&shown(name)),
                Token::Text(text) => body.push_str(&quoted(text)),
                Token::Class(expression) => body.push_str(expression),
                Token::Times(times) => body.push_str(times),
                Token::Mark(mark) => body.push(*mark),
                Token::Defines => {}
            }
            body.push(' ');
        }
        if is_empty {
            body.push_str("\"\"");
        }
        body
    }
}

/// A rule's name in Lark: small letters for rules, capitals for terminals; unlike any other's.
fn shown(index: usize, name: &str, is_recursive: bool) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    let plain: String = name.chars().map(|letter| if is_plain(letter) { letter } else { '_' }).collect();
    match is_recursive {
        true => format!("r{index}-{}", plain.to_ascii_lowercase()),
        false => format!("R{index}-{}", plain.to_ascii_uppercase()),
    }
}

/// The rules from which a rule can be reached that reaches itself.
fn recursive(uses: &[Vec<usize>]) -> HashSet<usize> {
    // Rules all of whose uses are known to end, found from the bottom up; the others don't.
    let mut ending: HashSet<usize> = HashSet::new();
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); uses.len()];
    let mut open: Vec<usize> = uses.iter().map(Vec::len).collect();
    for (user, used) in uses.iter().enumerate() {
        used.iter().for_each(|&used| users[used].push(user));
    }
    let mut ready: Vec<usize> = (0..uses.len()).filter(|&index| open[index] == 0).collect();
    while let Some(index) = ready.pop() {
        ending.insert(index);
        for &user in &users[index] {
            open[user] -= 1;
            if open[user] == 0 {
                ready.push(user);
            }
        }
    }
    (0..uses.len()).filter(|index| !ending.contains(index)).collect()
}

fn fault(line: usize, what: &str) -> GrammarError {
    GrammarError::refused(format!("line {line}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_terminals_unless_they_recur() {
        let gbnf = "root ::= value # a comment\n\nvalue ::= number |\n  \"[\" (value (\",\" value)*)? \"]\"\nnumber ::= [0-9]{1,3} | ";
        let lark = "r0-root: r1-value \n\nr1-value: R2-NUMBER | \"[\" ( r1-value ( \",\" r1-value ) * ) ? \"]\" \n\nR2-NUMBER: /[0-9]/ {1,3} | \"\"\nstart: r0-root\n";
        assert_eq!(to_lark(gbnf), Ok(lark.to_owned()));
    }

    #[test]
    fn characters_are_written_as_the_other_side_reads_them() {
        for (gbnf, lark) in [
            (r#"root ::= "a\n\"\x41\u00e9\\""#, r#"R0-ROOT: "a\n\"Aé\\" "#),
            (r"root ::= [^a-z\]/é-]", r"R0-ROOT: /[^a-z\x{5d}\x{2f}\x{e9}\x{2d}]/ "),
            ("root ::= .+", "R0-ROOT: /(?s:.)/ + "),
        ] {
            assert_eq!(to_lark(gbnf), Ok(format!("{lark}\nstart: R0-ROOT\n")));
        }
    }

    #[test]
    fn faults_name_their_line() {
        for (gbnf, told) in [
            ("a ::= \"b\"", "no rule `root`"),
            ("root ::= a\n# b\n  b", "line 1: the rule `a` is not defined"),
            ("root ::= \"a\"\nroot ::= \"b\"", "line 1: `root` is defined twice"),
            ("\"a\" ::= \"b\"", "line 1: a rule must begin"),
            ("root ::= \"a\n", "line 1: the text isn't closed"),
            ("root ::=\n [a", "line 2: the character class isn't closed"),
            ("root ::= [z-a]", "line 1: the range z-a"),
            ("root ::= []", "line 1: the character class is empty"),
            ("root ::= \"\\q\"", "line 1: `\\q` is no escape"),
            ("root ::= \"\\xZZ\"", "line 1: `\\x`"),
            ("root ::= a{2", "line 1: a repetition"),
            ("root ::= 'a'", "line 1: unexpected `'`"),
        ] {
            let error = to_lark(gbnf).unwrap_err().to_string();
            assert!(error.contains(told), "{gbnf}: {error}");
        }
    }
}
