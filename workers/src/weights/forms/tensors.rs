//! The names of the tensors that make up one matrix.

use crate::weights::{FileTensor, LoadError};

/// What follows a matrix's own name (`….weight`, or a stack's) in the names of tensors beside it or in its stead.
const OF_MATRIX: [&str; 8] =
    ["_scale_inv", "_scale", "_scales", "_zero_point", "_packed", "_blocks", "_shape", "_g_idx"];

/// What stands for `weight`, or beside it, after a module's name.
const OF_MODULE: [&str; 9] = [
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
    "input_scale",
    "input_zero_point",
    "output_scale",
    "output_zero_point",
    "activation_scale",
];

/// The tensors of one matrix.
pub(crate) struct Tensors<'a> {
    /// The matrix's own name.
    pub name: &'a str,
    /// Of stacked matrices, which.
    pub expert: Option<usize>,
    /// Finds a tensor by its name.
    pub find: &'a dyn Fn(&str) -> Option<FileTensor>,
    /// Complains of a tensor that is missing.
    pub missing: &'a dyn Fn(&str) -> LoadError,
}

impl Tensors<'_> {
    /// The tensor of the matrix's name with a suffix.
    pub(super) fn own(&self, suffix: &str) -> Result<Option<FileTensor>, LoadError> {
        self.tensor(&format!("{}{suffix}", self.name))
    }

    /// The same, which must be there.
    pub(super) fn required(&self, suffix: &str) -> Result<FileTensor, LoadError> {
        self.own(suffix)?.ok_or_else(|| (self.missing)(&format!("{}{suffix}", self.name)))
    }

    /// The tensor that the module calls `field`.
    pub(super) fn of_module(&self, field: &str) -> Result<Option<FileTensor>, LoadError> {
        module_tensor(self.name, field).map_or(Ok(None), |name| self.tensor(&name))
    }

    /// The same, which must be there.
    pub(super) fn required_of_module(&self, field: &str) -> Result<FileTensor, LoadError> {
        let name = module_tensor(self.name, field).unwrap_or_else(|| self.name.to_owned());
        self.tensor(&name)?.ok_or_else(|| (self.missing)(&name))
    }

    fn tensor(&self, name: &str) -> Result<Option<FileTensor>, LoadError> {
        let Some(tensor) = (self.find)(name) else { return Ok(None) };
        if tensor.info.count() == Some(0) {
            return Err(tensor.fault("has no elements"));
        }
        self.expert.map_or(Ok(tensor.clone()), |expert| tensor.nth(expert)).map(Some)
    }
}

/// Whether a file that has what `exists` says has a tensor that stands for the matrix `name`.
pub(crate) fn stands_for(name: &str, exists: &dyn Fn(&str) -> bool) -> bool {
    let own = |suffix| exists(&format!("{name}{suffix}"));
    own("") || own("_packed") || own("_blocks") || module_tensor(name, "qweight").is_some_and(|name| exists(&name))
}

/// The own names of the matrices that the tensor `name` may belong to.
pub(crate) fn belongs_to(name: &str) -> impl Iterator<Item = String> {
    let own = OF_MATRIX.into_iter().filter_map(|suffix| name.strip_suffix(suffix)).map(str::to_owned);
    let module = name.rsplit_once('.').filter(|(_, field)| OF_MODULE.contains(field));
    own.chain(module.map(|(module, _)| format!("{module}.weight")))
}

fn module_tensor(name: &str, field: &str) -> Option<String> {
    name.strip_suffix(".weight").map(|module| format!("{module}.{field}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_told_from_their_names() {
        let check = |name: &str, expected: &[&str]| assert_eq!(belongs_to(name).collect::<Vec<_>>(), expected);
        check("a.q_proj.qzeros", &["a.q_proj.weight"]);
        check("a.q_proj.weight_scale_inv", &["a.q_proj.weight"]);
        check("a.experts.gate_up_proj_blocks", &["a.experts.gate_up_proj"]);
        check("a.q_proj.input_scale", &["a.q_proj.input", "a.q_proj.weight"]);
        check("a.q_proj.bias", &[]);
        let stands = |tensor: &str, matrix: &str| stands_for(matrix, &|name| name == tensor);
        assert!(stands("a.weight", "a.weight") && stands("a.qweight", "a.weight"));
        assert!(stands("a.weight_packed", "a.weight") && stands("a.up_blocks", "a.up"));
        assert!(!stands("a.qweight", "a.bias") && !stands("a.scales", "a.weight"));
    }
}
