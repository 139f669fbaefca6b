//! Free text in which some beginnings promise a form: `<function=f>` is followed by JSON and `</function>`.

use serde_json::Value;

use super::{
    error::GrammarError,
    grammar::{Whitespace, quoted},
    schema,
};

/// Free text with forms in it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StructuralTag {
    /// The forms.
    pub structures: Vec<Structure>,
    /// Texts that must not occur but as the beginning of a form. Each form begins with one.
    pub triggers: Vec<String>,
}

/// One form.
#[derive(Debug, Clone, PartialEq)]
pub struct Structure {
    /// Its first characters.
    pub begin: String,
    /// What stands between `begin` and `end`.
    pub schema: Value,
    /// Its last characters.
    pub end: String,
}

impl StructuralTag {
    /// Text up to a trigger, the rest of a form that begins so, and again; at last text without any trigger.
    pub(super) fn to_lark(&self, whitespace: Whitespace) -> Result<String, GrammarError> {
        if self.triggers.is_empty() || self.triggers.iter().any(String::is_empty) {
            return Err(GrammarError::refused("`triggers` must be texts, at least one, none of them empty"));
        }
        self.check_beginnings()?;
        let used: Vec<_> = (0..self.triggers.len()).filter(|&index| self.members(index).next().is_some()).collect();
        let heads: Vec<_> = used.iter().map(|index| format!("head{index} form{index}")).collect();
        let triggers: Vec<_> = self.triggers.iter().map(|trigger| quoted(trigger)).collect();
        let mut lark = format!("start: ({})* tail\n", heads.join(" | "));
        lark.push_str("tail: TAIL\nANY: /(?s:.*)/\n");
        lark.push_str(&format!("TAIL: ANY & ~(ANY ({}) ANY)\n", triggers.join(" | ")));
        for index in used {
            lark.push_str(&format!("head{index}[lazy]: ANY {}\n", triggers[index]));
            let forms: Vec<_> = self.members(index).map(|form| form.after(&self.triggers[index], whitespace)).collect();
            lark.push_str(&format!("form{index}: {}\n", forms.join("\n  | ")));
        }
        Ok(lark)
    }

    /// How large it is, in bytes of text.
    pub(super) fn bytes(&self) -> usize {
        let forms = self.structures.iter();
        let forms = forms.map(|form| form.begin.len() + form.schema.to_string().len() + form.end.len());
        forms.sum::<usize>() + self.triggers.iter().map(String::len).sum::<usize>()
    }

    /// Every form is reached by a trigger.
    fn check_beginnings(&self) -> Result<(), GrammarError> {
        if self.structures.is_empty() {
            return Err(GrammarError::refused("`structures` must have at least one entry"));
        }
        let lost = self.structures.iter().find(|form| !self.triggers.iter().any(|one| form.begin.starts_with(one)));
        match lost {
            Some(form) => {
                Err(GrammarError::refused(format!("the structure that begins with {:?} has no trigger", form.begin)))
            }
            None => Ok(()),
        }
    }

    /// The forms that a trigger promises.
    fn members(&self, trigger: usize) -> impl Iterator<Item = &Structure> {
        let trigger = &self.triggers[trigger];
        self.structures.iter().filter(move |form| form.begin.starts_with(trigger))
    }
}

impl Structure {
    fn after(&self, trigger: &str, whitespace: Whitespace) -> String {
        let rest = &self.begin[trigger.len()..];
        let literal = |text: &str| if text.is_empty() { String::new() } else { quoted(text) };
        format!("{} %json {} {}", literal(rest), schema::for_library(&self.schema, whitespace), literal(&self.end))
    }
}
