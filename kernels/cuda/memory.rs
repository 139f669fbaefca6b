//! What lies on a GPU: activations, weights, a step's batch, keys and values.

use half::bf16;

use super::arena::{Arena, Buffer};
use super::driver::{Driver, Pointer};
use crate::{Batch, DType, KvDType, KvShape, Matrix, Result, rotary::Pairing};

/// What a tensor's elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    BF16,
}

impl Element {
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::BF16 => 2,
        }
    }

    /// Values as the device stores them.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        }
    }

    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value)).collect(),
            Self::BF16 => bytes.as_chunks::<2>().0.iter().map(|&value| bf16::from_le_bytes(value).to_f32()).collect(),
        }
    }
}

/// `[rows, columns]`, row-major, in the type of activations or in f32.
pub struct Tensor {
    rows: usize,
    columns: usize,
    element: Element,
    buffer: Buffer,
}

impl Tensor {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn element(&self) -> Element {
        self.element
    }

    pub(crate) fn elements(&self) -> usize {
        self.rows * self.columns
    }

    pub(crate) fn bytes(&self) -> usize {
        self.elements() * self.element.bytes()
    }

    pub(crate) fn pointer(&self) -> Pointer {
        self.buffer.pointer()
    }

    /// With left-over contents.
    pub(crate) fn take(arena: &Arena, rows: usize, columns: usize, element: Element) -> Result<Self> {
        let buffer = arena.take(rows * columns * element.bytes())?;
        Ok(Self { rows, columns, element, buffer })
    }

    /// Where it is.
    pub(crate) fn place(&self) -> TensorPlace {
        TensorPlace { rows: self.rows, columns: self.columns, element: self.element, pointer: self.pointer() }
    }
}

/// Where a tensor was when it was recorded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TensorPlace {
    rows: usize,
    columns: usize,
    element: Element,
    pointer: Pointer,
}

impl TensorPlace {
    /// The tensor that a recorded step leaves there.
    pub(crate) fn retake(&self, arena: &Arena) -> Tensor {
        let Self { rows, columns, element, pointer } = *self;
        let buffer = arena.retake(pointer, rows * columns * element.bytes());
        Tensor { rows, columns, element, buffer }
    }
}

/// Memory for as long as its owner lives.
pub(crate) struct Region {
    pointer: Pointer,
    driver: Driver,
}

impl Region {
    /// Takes memory and fills it; pieces lie one after the other.
    pub(crate) fn with<'a>(
        driver: &Driver,
        bytes: usize,
        purpose: &str,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self> {
        let region = Self { pointer: driver.allocate(bytes.max(1), purpose)?, driver: driver.clone() };
        let mut filled = 0;
        for piece in pieces {
            assert!(filled + piece.len() <= bytes, "the pieces fit into the region");
            // SAFETY: within the memory just taken, as was asserted.
            unsafe { driver.copy_in(region.pointer.offset(filled), piece) }?;
            filled += piece.len();
        }
        Ok(region)
    }

    /// Takes memory, zeroed.
    pub(crate) fn zeroed(driver: &Driver, bytes: usize, purpose: &str) -> Result<Self> {
        let region = Self { pointer: driver.allocate(bytes.max(1), purpose)?, driver: driver.clone() };
        // SAFETY: the memory just taken.
        unsafe { driver.zero(region.pointer, bytes) }?;
        Ok(region)
    }

    pub(crate) fn pointer(&self) -> Pointer {
        self.pointer
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: taken from this driver; who could refer to it is being dropped.
        unsafe { self.driver.free(self.pointer) };
    }
}

/// A weight `[outputs, inputs]`: stored matrices in one region, the outputs of one after those of the other, each as its
/// format stores it.
pub struct Weight {
    parts: Vec<Part>,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    /// Where the parts lie.
    _region: Region,
}

/// Neighbouring stored matrices of one format, as one: the outputs that one launch can compute.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) rows: usize,
    pub(crate) dtype: DType,
    /// Bytes from one row to the next, a multiple of 16.
    pub(crate) stride: usize,
    /// A multiple of 256.
    pointer: Pointer,
}

impl Part {
    /// Rows begin where the widest load can read.
    const ROW_ALIGNMENT: usize = 16;

    /// Parts begin where a line of the cache does.
    const ALIGNMENT: usize = 256;

    pub(crate) fn pointer(&self) -> Pointer {
        self.pointer
    }

    fn bytes(&self) -> usize {
        (self.rows * self.stride).next_multiple_of(Self::ALIGNMENT)
    }

    fn stride_of(matrix: &Matrix) -> usize {
        matrix.dtype().bytes_of(matrix.columns()).next_multiple_of(Self::ROW_ALIGNMENT)
    }

    /// Copies matrices of one format and width to a place that has room for all their rows.
    fn fill(driver: &Driver, to: Pointer, matrices: &[Matrix]) -> Result<Self> {
        /// Bytes that are copied at once.
        const CHUNK: usize = 16 << 20;
        let (dtype, stride) = (matrices[0].dtype(), Self::stride_of(&matrices[0]));
        let (mut rows, mut staged) = (0, Vec::new());
        let copy_in = |rows: usize, staged: &mut Vec<u8>| {
            // SAFETY: these are the last of `rows` rows, for which there is room.
            unsafe { driver.copy_in(to.offset(rows * stride - staged.len()), staged) }?;
            staged.clear();
            Ok(())
        };
        for (matrix, row) in matrices.iter().flat_map(|matrix| (0..matrix.rows()).map(move |row| (matrix, row))) {
            staged.extend_from_slice(matrix.row(row));
            staged.resize(staged.len().next_multiple_of(Self::ROW_ALIGNMENT), 0);
            rows += 1;
            if staged.len() >= CHUNK {
                copy_in(rows, &mut staged)?;
            }
        }
        if !staged.is_empty() {
            copy_in(rows, &mut staged)?;
        }
        Ok(Self { rows, dtype, stride, pointer: to })
    }
}

impl Weight {
    /// Takes copies of `matrices`; all have as many columns as the first.
    pub(crate) fn new(driver: &Driver, matrices: &[Matrix]) -> Result<Self> {
        let inputs = matrices.first().map_or(0, Matrix::columns);
        assert!(matrices.iter().all(|matrix| matrix.columns() == inputs), "the parts of a weight have the same inputs");
        let alike = |a: &Matrix, b: &Matrix| a.dtype() == b.dtype();
        let bytes_of = |run: &[Matrix]| {
            let rows: usize = run.iter().map(Matrix::rows).sum();
            (rows * Part::stride_of(&run[0])).next_multiple_of(Part::ALIGNMENT)
        };
        let region = Region::with(driver, matrices.chunk_by(alike).map(bytes_of).sum(), "weights", [])?;
        let mut next = region.pointer();
        let mut parts = Vec::new();
        for run in matrices.chunk_by(alike) {
            let part = Part::fill(driver, next, run)?;
            next = next.offset(part.bytes());
            parts.push(part);
        }
        Ok(Self { parts, outputs: matrices.iter().map(Matrix::rows).sum(), inputs, _region: region })
    }

    /// The stored matrices, each with its first output.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (usize, &Part)> {
        self.parts.iter().scan(0, |next, part| {
            let first = *next;
            *next += part.rows;
            Some((first, part))
        })
    }
}

/// In a slot mapping: the token's key and value are not kept.
pub(crate) const NO_SLOT: u32 = u32::MAX;

/// A step's batch: its numbers in one run of 32-bit words.
pub struct DeviceBatch {
    /// The same on the host. Of steps that are recorded, only its sizes may decide what is enqueued.
    pub(crate) host: Batch,
    /// Entries of a sequence in the block tables.
    pub(crate) table_width: usize,
    /// Most queries of one sequence.
    pub(crate) queries_max: usize,
    /// No context is longer.
    pub(crate) context_max: usize,
    /// One more than the greatest slot that is written, and the greatest block that is read.
    pub(crate) slots_end: usize,
    pub(crate) blocks_end: usize,
    words: Words,
    starts: [usize; 6],
}

/// Where a batch's words are: for one step, or for as many as a recording is repeated.
enum Words {
    Step(Buffer),
    Lasting(Region),
}

/// A batch as words, laid out.
struct Layout {
    words: Vec<u8>,
    starts: [usize; 6],
}

impl Layout {
    fn of(batch: &Batch, table_width: usize) -> Self {
        let mut table = Vec::with_capacity(batch.block_tables.len() * table_width);
        for blocks in &batch.block_tables {
            table.extend_from_slice(blocks);
            table.resize(table.len() + table_width - blocks.len(), 0);
        }
        let Batch { tokens, positions, slot_mapping, query_starts, context_lengths, .. } = batch;
        let lists = [tokens, positions, slot_mapping, query_starts, context_lengths, &table];
        let mut layout = Self { words: Vec::new(), starts: [0; 6] };
        for (start, list) in layout.starts.iter_mut().zip(lists) {
            *start = layout.words.len();
            layout.words.extend(list.iter().flat_map(|word| word.to_le_bytes()));
        }
        layout
    }
}

impl DeviceBatch {
    /// For one step.
    pub(crate) fn new(driver: &Driver, arena: &Arena, batch: Batch) -> Result<Self> {
        let table_width = batch.block_tables.iter().map(Vec::len).max().unwrap_or(0);
        let layout = Layout::of(&batch, table_width);
        let words = arena.take(layout.words.len())?;
        // SAFETY: the run was taken for as many bytes.
        unsafe { driver.copy_in(words.pointer(), &layout.words) }?;
        let context_max = batch.context_lengths.iter().copied().max().unwrap_or(0) as usize;
        Ok(Self::with(batch, Words::Step(words), layout.starts, (table_width, context_max)))
    }

    /// For steps that are repeated: at addresses of its own, and with sizes that don't depend on the step.
    pub(crate) fn lasting(driver: &Driver, batch: Batch, table_width: usize, context_max: usize) -> Result<Self> {
        let Layout { words, starts } = Layout::of(&batch, table_width);
        let region = Region::with(driver, words.len(), "a recorded step's batch", [&words[..]])?;
        Ok(Self::with(batch, Words::Lasting(region), starts, (table_width, context_max)))
    }

    /// Puts another step's numbers in the place of those of one that was as large.
    pub(crate) fn refill(&mut self, driver: &Driver, batch: Batch) -> Result<()> {
        let Layout { words, starts } = Layout::of(&batch, self.table_width);
        let is_alike = starts == self.starts && batch.tokens.len() == self.host.tokens.len();
        assert!(is_alike, "a batch is refilled with one of its size");
        // SAFETY: the words were taken for as many numbers.
        unsafe { driver.copy_in(self.list(0), &words) }?;
        (self.slots_end, self.blocks_end) = ends(&batch);
        self.host = batch;
        Ok(())
    }

    fn with(host: Batch, words: Words, starts: [usize; 6], (table_width, context_max): (usize, usize)) -> Self {
        let queries = host.query_starts.windows(2).map(|ends| (ends[1] - ends[0]) as usize);
        let queries_max = queries.max().unwrap_or(0);
        let (slots_end, blocks_end) = ends(&host);
        Self { host, table_width, queries_max, context_max, slots_end, blocks_end, words, starts }
    }

    fn list(&self, index: usize) -> Pointer {
        let words = match &self.words {
            Words::Step(buffer) => buffer.pointer(),
            Words::Lasting(region) => region.pointer(),
        };
        words.offset(self.starts[index])
    }

    /// `u32 [tokens]`
    pub(crate) fn token_ids(&self) -> Pointer {
        self.list(0)
    }

    /// `u32 [tokens]`
    pub(crate) fn positions(&self) -> Pointer {
        self.list(1)
    }

    /// `u32 [tokens]`
    pub(crate) fn slot_mapping(&self) -> Pointer {
        self.list(2)
    }

    /// `u32 [sequences + 1]`
    pub(crate) fn query_starts(&self) -> Pointer {
        self.list(3)
    }

    /// `u32 [sequences]`
    pub(crate) fn context_lengths(&self) -> Pointer {
        self.list(4)
    }

    /// `u32 [sequences, table_width]`
    pub(crate) fn block_tables(&self) -> Pointer {
        self.list(5)
    }

    pub(crate) fn tokens(&self) -> usize {
        self.host.tokens.len()
    }

    pub(crate) fn sequences(&self) -> usize {
        self.host.context_lengths.len()
    }
}

/// One more than the greatest slot that a batch writes, and the greatest block that it reads.
fn ends(batch: &Batch) -> (usize, usize) {
    let end = |last: Option<&u32>| last.map_or(0, |&last| last as usize + 1);
    let slots = batch.slot_mapping.iter().filter(|slot| **slot != NO_SLOT);
    (end(slots.max()), end(batch.block_tables.iter().flatten().max()))
}

/// Keys and values of all layers. Keys are `[layers][blocks][KV heads][slots][head_dim]`, and values likewise, unless
/// they lie within keys. Scales of int8 are `f32 [layers][blocks][KV heads][slots]`.
pub struct KvCache {
    pub(crate) shape: KvShape,
    pub(crate) keys: Region,
    pub(crate) values: Option<Region>,
    pub(crate) key_scales: Option<Region>,
    pub(crate) value_scales: Option<Region>,
}

impl KvCache {
    pub(crate) fn new(driver: &Driver, shape: KvShape) -> Result<Self> {
        let rows = shape.layers * shape.blocks * shape.block_size * shape.kv_heads;
        assert!(rows / shape.layers.max(1) <= i32::MAX as usize, "kernels count a layer's rows with 31 bits");
        let region = |bytes: usize| Region::zeroed(driver, bytes, "the KV cache");
        let has_scales = shape.dtype.row_bytes(0) > 0;
        let row_bytes = shape.dtype.row_bytes(shape.head_dim) - shape.dtype.row_bytes(0);
        let own_values = shape.values_from.is_none();
        let scales = |wanted: bool| wanted.then(|| region(rows * size_of::<f32>())).transpose();
        Ok(Self {
            shape,
            keys: region(rows * row_bytes)?,
            values: own_values.then(|| region(rows * row_bytes)).transpose()?,
            key_scales: scales(has_scales)?,
            value_scales: scales(has_scales && own_values)?,
        })
    }

    /// Where a layer's rows begin.
    pub(crate) fn layer(&self, layer: usize) -> KvLayer {
        let KvShape { layers, blocks, block_size, kv_heads, head_dim, values_from, .. } = self.shape;
        assert!(layer < layers, "outside of the KV cache");
        let first_row = layer * blocks * kv_heads * block_size;
        let element_bytes = self.element_bytes();
        let elements = |region: &Region| region.pointer().offset(first_row * head_dim * element_bytes);
        let scales = |region: &Option<Region>| {
            region.as_ref().map(|region| region.pointer().offset(first_row * size_of::<f32>()))
        };
        let within_keys = values_from.unwrap_or(0) * element_bytes;
        KvLayer {
            keys: elements(&self.keys),
            values: self.values.as_ref().map_or(elements(&self.keys).offset(within_keys), elements),
            key_scales: scales(&self.key_scales),
            value_scales: scales(if values_from.is_some() { &self.key_scales } else { &self.value_scales }),
        }
    }

    /// Bytes of an element of a key or value.
    pub(crate) fn element_bytes(&self) -> usize {
        self.shape.dtype.row_bytes(1) - self.shape.dtype.row_bytes(0)
    }

    /// The cache's storage format under the name of the weights that are stored alike: for these, kernels are compiled.
    pub(crate) fn format(&self) -> DType {
        match self.shape.dtype {
            KvDType::F32 => DType::F32,
            KvDType::F16 => DType::F16,
            KvDType::BF16 => DType::BF16,
            KvDType::Int8 => DType::WInt8,
        }
    }
}

/// One layer of a KV cache: rows of `head_dim` elements for each block, KV head and slot. Values that lie within keys
/// begin at their first element and are as far apart as the keys.
pub(crate) struct KvLayer {
    pub(crate) keys: Pointer,
    pub(crate) values: Pointer,
    pub(crate) key_scales: Option<Pointer>,
    pub(crate) value_scales: Option<Pointer>,
}

/// By which angles heads are turned.
pub struct Angles {
    /// `f32 [pairs]`
    pub(crate) frequencies: Region,
    pub(crate) pairs: usize,
    pub(crate) magnitude: f32,
    pub(crate) pairing: Pairing,
}
