//! Kernels by their names: compiled and loaded when first asked for, and launched with arguments of the kinds that
//! their own text says.

use std::{
    collections::{HashMap, hash_map},
    ffi::c_void,
    marker::PhantomData,
    sync::{Arc, Mutex, PoisonError},
};

use super::compile::{Compiler, Source, Variant};
use super::driver::{Driver, Function, Grid, Manner, Pointer};
use super::{Activations, RowsHere, Tensor};
use crate::{DType, DeviceError, Result};

/// All kernels of a device.
pub(crate) struct Kernels {
    compiler: Compiler,
    activations: Activations,
    modules: Mutex<HashMap<Variant, HashMap<String, Kernel>>>,
}

/// One kernel.
#[derive(Debug, Clone)]
struct Kernel {
    function: Function,
    parameters: Arc<[Kind]>,
    manner: Manner,
    /// Dynamic shared memory that its blocks were allowed, bytes.
    shared_bytes: u32,
}

/// What a kernel's parameter is: the driver itself takes addresses of anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 32 bits: a number without a fraction …
    Word,
    /// … or with one.
    Float,
    /// 64 bits, an address or a long number.
    Long,
    /// A value of so many bytes.
    Bytes(usize),
}

/// A kernel's argument.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Argument<'a> {
    Word(u32),
    Float(f32),
    Long(u64),
    /// A struct, of so many bytes.
    Bytes(*const c_void, usize, PhantomData<&'a ()>),
}

impl<'a> Argument<'a> {
    /// A `#[repr(C)]` struct with the fields of the kernel's own.
    pub(crate) fn of<T: Copy>(value: &'a T) -> Self {
        Self::Bytes(std::ptr::from_ref(value).cast(), size_of::<T>(), PhantomData)
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Word(_) => Kind::Word,
            Self::Float(_) => Kind::Float,
            Self::Long(_) => Kind::Long,
            Self::Bytes(_, bytes, _) => Kind::Bytes(*bytes),
        }
    }

    fn address(&mut self) -> *mut c_void {
        match self {
            Self::Word(value) => std::ptr::from_mut(value).cast(),
            Self::Float(value) => std::ptr::from_mut(value).cast(),
            Self::Long(value) => std::ptr::from_mut(value).cast(),
            // The driver only reads.
            Self::Bytes(address, ..) => address.cast_mut(),
        }
    }
}

impl From<Pointer> for Argument<'_> {
    fn from(pointer: Pointer) -> Self {
        Self::Long(pointer.0)
    }
}

/// The address of its elements, all of which are there.
impl From<&Tensor> for Argument<'_> {
    fn from(tensor: &Tensor) -> Self {
        assert_eq!(tensor.rows_here(), RowsHere::All, "a kernel reads whole tensors");
        tensor.pointer().into()
    }
}

/// An address that may be none.
impl From<Option<Pointer>> for Argument<'_> {
    fn from(pointer: Option<Pointer>) -> Self {
        Self::Long(pointer.map_or(0, |pointer| pointer.0))
    }
}

/// Bytes between things, for a kernel's `long long`.
impl From<u64> for Argument<'_> {
    fn from(value: u64) -> Self {
        Self::Long(value)
    }
}

impl From<f32> for Argument<'_> {
    fn from(value: f32) -> Self {
        Self::Float(value)
    }
}

/// A size or an index, for a kernel's `int`.
impl From<usize> for Argument<'_> {
    fn from(value: usize) -> Self {
        Self::Word(u32::try_from(value).ok().filter(|value| *value <= i32::MAX as u32).expect("sizes are below 2³¹"))
    }
}

impl From<u32> for Argument<'_> {
    fn from(value: u32) -> Self {
        Self::Word(value)
    }
}

impl From<bool> for Argument<'_> {
    fn from(value: bool) -> Self {
        Self::Word(value.into())
    }
}

impl Kernels {
    /// None yet.
    pub(crate) fn new(compiler: Compiler, activations: Activations) -> Self {
        Self { compiler, activations, modules: Mutex::default() }
    }

    /// Enqueues the kernel `entry` of `source`, for weights of `format` where there is one for each.
    ///
    /// # Safety
    /// What the arguments say (addresses, sizes) is true.
    pub(crate) unsafe fn launch(
        &self,
        driver: &Driver,
        (source, format): (&'static Source, Option<DType>),
        entry: &'static str,
        grid: Grid,
        arguments: &mut [Argument],
    ) -> Result<()> {
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        let (kernel, name) = self.find(driver, (source, format), entry, grid.shared_bytes)?;
        let kinds: Vec<Kind> = arguments.iter().map(Argument::kind).collect();
        assert_eq!(kinds, *kernel.parameters, "the arguments of {name}");
        let mut addresses: Vec<*mut c_void> = arguments.iter_mut().map(Argument::address).collect();
        // SAFETY: the kinds are those that the kernel's text declares; what they say is the caller's promise.
        unsafe { driver.launch((kernel.function, &name), kernel.manner, grid, &mut addresses) }
    }

    /// How many clusters, each of the blocks that `grid` has in z, run at once.
    pub(crate) fn clusters_at_once(
        &self,
        driver: &Driver,
        source: (&'static Source, Option<DType>),
        entry: &'static str,
        grid: Grid,
    ) -> Result<usize> {
        let (kernel, _) = self.find(driver, source, entry, grid.shared_bytes)?;
        driver.clusters_at_once(kernel.function, grid)
    }

    /// A kernel, whose blocks may have so much dynamic shared memory, and its name.
    fn find(
        &self,
        driver: &Driver,
        (source, format): (&'static Source, Option<DType>),
        entry: &'static str,
        shared_bytes: u32,
    ) -> Result<(Kernel, String)> {
        let variant = Variant { source, format, activations: self.activations };
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let kernels = match modules.entry(variant) {
            hash_map::Entry::Occupied(loaded) => loaded.into_mut(),
            hash_map::Entry::Vacant(missing) => missing.insert(self.load(driver, &variant)?),
        };
        let name = variant.name(entry);
        let kernel = kernels.get_mut(&name).unwrap_or_else(|| panic!("{} has no kernel {entry}", source.name));
        if shared_bytes > kernel.shared_bytes {
            driver.allow_shared(kernel.function, shared_bytes)?;
            kernel.shared_bytes = shared_bytes;
        }
        Ok((kernel.clone(), name))
    }

    fn load(&self, driver: &Driver, variant: &Variant) -> Result<HashMap<String, Kernel>> {
        let module = self.compiler.module(variant)?;
        let entries = entries(&module.text).ok_or_else(|| DeviceError::Failed {
            doing: format!("reading the kernels of {}", variant.name(variant.source.name)),
            fault: "this is no text of kernels".into(),
        })?;
        let names: Vec<String> = entries.iter().map(|entry| entry.name.clone()).collect();
        let functions = driver.load(&module.image, &names)?;
        let kernels = entries.into_iter().zip(functions).map(|(Entry { name, parameters, manner }, function)| {
            let shared_bytes = driver.allowed_shared(function)?;
            Ok((name, Kernel { function, parameters: parameters.into(), manner, shared_bytes }))
        });
        kernels.collect()
    }
}

/// What a module's text says of a kernel.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    parameters: Vec<Kind>,
    manner: Manner,
}

/// The entries of a module (PTX ISA, "Kernel Function Parameters", "griddepcontrol" and "barrier.cluster"). One that waits
/// for the kernel before it need not be begun after that has ended; one that meets in a cluster has to be launched as such.
fn entries(ptx: &str) -> Option<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in ptx.split(".entry ").skip(1) {
        let (name, rest) = entry.split_once('(')?;
        let (parameters, body) = rest.split_once(')')?;
        let parameters = parameters.split(".param").skip(1).map(kind).collect::<Option<Vec<_>>>()?;
        let manner =
            Manner { early: body.contains("griddepcontrol.wait"), clustered: body.contains("barrier.cluster.wait") };
        found.push(Entry { name: name.trim().to_owned(), parameters, manner });
    }
    (!found.is_empty()).then_some(found)
}

fn kind(parameter: &str) -> Option<Kind> {
    let mut words = parameter.split_whitespace();
    Some(match words.next()? {
        ".u32" | ".s32" | ".b32" => Kind::Word,
        ".f32" => Kind::Float,
        ".u64" | ".s64" | ".b64" => Kind::Long,
        ".align" => {
            let (_, bytes) = parameter.split_once('[')?;
            Kind::Bytes(bytes.split_once(']')?.0.parse().ok()?)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_text_says_what_it_takes() {
        let ptx = "
.visible .entry scale_f32(
    .param .u64 .ptr .align 1 scale_f32_param_0,
    .param .u32 scale_f32_param_1,
    .param .f32 scale_f32_param_2
)
.maxntid 256, 1, 1
{
}
.visible .entry gather_f32(
    .param .align 8 .b8 gather_f32_param_0[128]
)
{
    griddepcontrol.wait;
}
.visible .entry add_f32(
    .param .u32 add_f32_param_0
)
{
    barrier.cluster.arrive.release.aligned;
    barrier.cluster.wait.acquire.aligned;
}";
        let entry = |name: &str, parameters: &[Kind], manner| Entry {
            name: name.into(),
            parameters: parameters.into(),
            manner,
        };
        let expected = vec![
            entry("scale_f32", &[Kind::Long, Kind::Word, Kind::Float], Manner { early: false, clustered: false }),
            entry("gather_f32", &[Kind::Bytes(128)], Manner { early: true, clustered: false }),
            entry("add_f32", &[Kind::Word], Manner { early: false, clustered: true }),
        ];
        assert_eq!(entries(ptx), Some(expected));
        assert_eq!(entries("nothing"), None);
    }
}
