// Tokens chosen where the logits are.
//
// The floor is one read of the logits, 4 bytes for each token of the vocabulary. The greatest logit, and a draw from all
// tokens, take just that: `survey` reads a row by slices, a block for each, and `settle` finds the token in one of them.
// Where a distribution is cut, rows are read twice more, mostly from the cache. Nothing is sorted but a few thousand
// tokens:
//
//   survey  → of each slice the greatest logit, the least, and the mass of its tokens
//   tally   → of each row the tokens and their mass in every bin of likelihood
//   bracket → the bins in which the k-th token lies, the last of top-p, and the one to draw
//   gather  → the tokens of those bins
//   settle  → these sorted, and the token
//
// Weights are whole numbers, masses: exp((logit − greatest) / temperature) in units of 2⁻⁴⁴. Their sums are exact in any
// order, so that a choice depends neither on which block was first nor on the rows beside it. Tokens too unlikely for a
// mass are never drawn; they are less than 10⁻⁷ of a row together.

#include "device.cuh"

constexpr int SLICE_THREADS = 256;
constexpr int COLUMNS_PER_THREAD = 16;
constexpr int SLICE = SLICE_THREADS * COLUMNS_PER_THREAD;
constexpr int ROW_THREADS = 1024;

constexpr int BINS = ROW_THREADS;
constexpr int LISTED_PER_THREAD = 4;
constexpr int LISTED_MAX = ROW_THREADS * LISTED_PER_THREAD;

// Octaves below the greatest weight that have a mass.
constexpr int OCTAVES = 44;

// Columns of a row: their masses fit into 64 bits together, their slices into a block.
constexpr int COLUMN_BITS = 19;
static_assert(OCTAVES + COLUMN_BITS < 64 && (1 << COLUMN_BITS) / SLICE <= SLICE_THREADS, "");

// What is to be chosen. Shares are in units of 2⁻⁶⁴.
struct Ask {
    uint64_t uniform;
    uint64_t top_p;   // 0: all
    float steepness;  // octaves that a weight falls by where its logit falls by 1; 0: the greatest is chosen
    float min_p;      // 0: all
    uint32_t top_k;   // 0: all
    int row;
    int place;        // of the token among those chosen

    __device__ bool draws() const { return steepness > 0.0f; }
    __device__ bool cuts() const { return top_p > 0 || top_k > 0 || min_p > 0.0f; }
};
static_assert(sizeof(Ask) == 40, "as the host writes it");

// What a slice is, its logits in their order.
struct Slice {
    uint32_t greatest;  // NOT_FINITE if one is not
    uint32_t least;
    uint32_t first;  // column of the greatest
    uint64_t mass;   // measured by the slice's own greatest; of rows that are drawn from uncut
};
static_assert(sizeof(Slice) == 24, "as the host takes memory for it");

// A row by bins of likelihood, the likeliest first.
struct Tally {
    uint64_t masses[BINS];  // of a bin; after `bracket`: of the bins before it that are not listed
    uint64_t keys[LISTED_MAX];
    uint64_t mass;          // of all bins
    uint32_t counts[BINS];  // as masses
    uint32_t count;
    uint32_t listed;  // how many tokens there are in marked bins, maybe more than there are keys
    uint32_t marks[BINS / 32];
};
static_assert(sizeof(Tally) == 45200, "as the host takes memory for it");

// A token that is no token: its logit is not finite.
constexpr uint32_t NOT_FINITE_TOKEN = 1u << 31;

// ---- numbers ----

constexpr uint32_t NOT_FINITE = 0xffffffffu;

// Ascends with the value; zeros are equal. Greater than all where it is not finite.
__device__ uint32_t order_of(float value) {
    uint32_t bits = __float_as_uint(value + 0.0f);
    if ((bits & 0x7f800000u) == 0x7f800000u) return NOT_FINITE;
    return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}

__device__ float value_of(uint32_t order) {
    return __uint_as_float(order ^ (order >> 31 ? 0x80000000u : 0xffffffffu));
}

// A share of an amount, rounded down …
__device__ uint64_t part(uint64_t share, uint64_t amount) { return __umul64hi(share, amount); }

// … and up.
__device__ uint64_t part_up(uint64_t share, uint64_t amount) {
    return __umul64hi(share, amount) + (share * amount != 0);
}

// A weight of at most 1 as a whole number.
__device__ uint64_t mass_of(float weight) {
    uint32_t bits = __float_as_uint(weight);
    uint64_t fraction = (bits & 0x7fffffu) | 0x800000u;
    return (fraction << (OCTAVES - 23)) >> min(127 - int(bits >> 23), 63);
}

// By its order tokens are sorted: by likelihood, equal ones by their ids.
__device__ uint64_t key_of(float below, int column) {
    return uint64_t(__float_as_uint(below)) << 32 | uint32_t(column);
}

// Behind all others.
constexpr uint64_t NO_KEY = ~0ull;

__device__ float below_of(uint64_t key) { return __uint_as_float(uint32_t(key >> 32)); }

// Neighbours among tokens in the order of likelihood, by count or by mass: `begin` is that of all before them.
struct Span {
    uint64_t begin, end;

    __device__ bool holds(uint64_t amount) const { return begin <= amount && amount < end; }
    __device__ Span plus(uint64_t before) const { return {begin + before, end + before}; }
};

// ---- reductions: `room` is shared and may be used again after the next barrier ----

__device__ uint32_t block_max(uint32_t x, uint32_t* room) {
    int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
    x = __reduce_max_sync(ALL_LANES, x);
    if (lane == 0) room[warp] = x;
    __syncthreads();
    return __reduce_max_sync(ALL_LANES, lane < warps ? room[lane] : 0);
}

__device__ uint64_t warp_sum(uint64_t x) {
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
    return x;
}

__device__ uint64_t block_sum(uint64_t x, uint64_t* room) {
    int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
    x = warp_sum(x);
    if (lane == 0) room[warp] = x;
    __syncthreads();
    return warp_sum(lane < warps ? room[lane] : 0);
}

// The sum of what the threads before this one have.
__device__ uint64_t block_sum_before(uint64_t x, uint64_t* room) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint64_t through = x;
    for (int distance = 1; distance < 32; distance *= 2) {
        uint64_t before = __shfl_up_sync(ALL_LANES, through, distance);
        if (lane >= distance) through += before;
    }
    if (lane == 31) room[warp] = through;
    __syncthreads();
    return warp_sum(lane < warp ? room[lane] : 0) + through - x;
}

// ---- rows ----

// The greatest and the least logit, in their order.
struct Extremes {
    uint32_t greatest, least;

    __device__ bool are_finite() const { return greatest != NOT_FINITE; }
};

// A row's logits and what they weigh.
struct Row {
    const float* logits;
    int columns;
    float greatest;
    float steepness;
    float min_p;
    float bins_per_octave;

    __device__ Row(const Ask& ask, const float* all, int stride, int columns)
        : logits(all + int64_t(ask.row) * stride), columns(columns), steepness(ask.steepness), min_p(ask.min_p) {}

    // The greatest weighs 1. Bins divide what there is of octaves, so that a flat row has as many as a steep one.
    __device__ void measure(Extremes ends) {
        greatest = value_of(ends.greatest);
        float reach = fminf((greatest - value_of(ends.least)) * steepness, OCTAVES);
        bins_per_octave = BINS / fmaxf(reach, 1e-20f);
    }

    // How far a logit is below the greatest.
    __device__ float below(float logit) const { return greatest - logit; }

    // None for those that min_p cuts.
    __device__ uint64_t mass(float below) const {
        float weight = exp2f(-below * steepness);
        return weight > min_p || weight == 1.0f ? mass_of(weight) : 0;
    }

    __device__ int bin(float below) const {
        return int(fminf(below * steepness * bins_per_octave, BINS - 1));
    }
};

// Of a whole row, by its slices.
__device__ Extremes extremes(const Slice* slices, int count, uint32_t (*rooms)[32]) {
    bool has_one = int(threadIdx.x) < count;
    uint32_t greatest = block_max(has_one ? slices[threadIdx.x].greatest : 0, rooms[0]);
    uint32_t least = ~block_max(has_one ? ~slices[threadIdx.x].least : 0, rooms[1]);
    return {greatest, least};
}

// ---- by slices: blocks are [slices of a row, asks] ----

// The columns of a thread.
__device__ int column_of(int i) { return int(blockIdx.x) * SLICE + i * SLICE_THREADS + int(threadIdx.x); }

// Their logits, all on their way at once; columns beyond the last are the last again.
__device__ void load_slice(float values[COLUMNS_PER_THREAD], const Row& row) {
    for (int i = 0; i < COLUMNS_PER_THREAD; i++) values[i] = row.logits[min(column_of(i), row.columns - 1)];
}

// What each slice is; and empty tallies for what follows.
KERNEL(survey, 256)
(Slice* slices, Tally* tallies, const Ask* asks, const float* logits, int stride, int columns) {
    __shared__ uint32_t rooms[3][32];
    __shared__ uint64_t mass_room[32];
    const Ask ask = asks[blockIdx.y];
    if (ask.cuts() && blockIdx.x == 0) {
        Tally& tally = tallies[blockIdx.y];
        for (int bin = threadIdx.x; bin < BINS; bin += SLICE_THREADS) tally.masses[bin] = tally.counts[bin] = 0;
        if (threadIdx.x == 0) tally.listed = 0;
    }
    Row row(ask, logits, stride, columns);
    float values[COLUMNS_PER_THREAD];
    load_slice(values, row);
    uint32_t greatest = 0, least = NOT_FINITE;
    for (float value : values) {
        greatest = max(greatest, order_of(value));
        least = min(least, order_of(value));
    }
    greatest = block_max(greatest, rooms[0]);
    least = ~block_max(~least, rooms[1]);
    uint32_t first = NOT_FINITE;
    for (int i = COLUMNS_PER_THREAD - 1; i >= 0; i--) {
        if (order_of(values[i]) == greatest) first = column_of(i);
    }
    first = ~block_max(~first, rooms[2]);
    uint64_t mass = 0;
    if (ask.draws() && !ask.cuts() && greatest != NOT_FINITE) {
        row.measure({greatest, least});
        for (int i = 0; i < COLUMNS_PER_THREAD; i++) {
            if (column_of(i) < columns) mass += row.mass(row.below(values[i]));
        }
        mass = block_sum(mass, mass_room);
    }
    if (threadIdx.x == 0) slices[blockIdx.y * gridDim.x + blockIdx.x] = {greatest, least, first, mass};
}

// Adds 64 bits where atomics have 32; the sum doesn't depend on who was first.
__device__ void add_shared(uint32_t* low, uint32_t* high, uint64_t mass) {
    uint32_t before = atomicAdd(low, uint32_t(mass));
    uint32_t carried = before + uint32_t(mass) < before;
    uint32_t upper = uint32_t(mass >> 32) + carried;
    if (upper != 0) atomicAdd(high, upper);
}

// How many tokens there are in each bin, and their mass.
KERNEL(tally, 256)
(Tally* tallies, const Slice* slices, const Ask* asks, const float* logits, int stride, int columns) {
    __shared__ uint32_t rooms[2][32];
    __shared__ uint32_t low[BINS], high[BINS], counts[BINS];
    for (int bin = threadIdx.x; bin < BINS; bin += SLICE_THREADS) low[bin] = high[bin] = counts[bin] = 0;
    const Ask ask = asks[blockIdx.y];
    Row row(ask, logits, stride, columns);
    float values[COLUMNS_PER_THREAD];
    load_slice(values, row);
    Extremes ends = extremes(slices + blockIdx.y * gridDim.x, gridDim.x, rooms);
    if (!ends.are_finite()) return;
    row.measure(ends);
    for (int i = 0; i < COLUMNS_PER_THREAD; i++) {
        float below = row.below(values[i]);
        uint64_t mass = column_of(i) < columns ? row.mass(below) : 0;
        if (mass == 0) continue;
        int bin = row.bin(below);
        add_shared(&low[bin], &high[bin], mass);
        if (ask.top_k > 0) atomicAdd(&counts[bin], 1u);
    }
    __syncthreads();
    Tally& tally = tallies[blockIdx.y];
    for (int bin = threadIdx.x; bin < BINS; bin += SLICE_THREADS) {
        uint64_t mass = uint64_t(high[bin]) << 32 | low[bin];
        if (mass != 0) atomicAdd(&tally.masses[bin], mass);
        if (counts[bin] != 0) atomicAdd(&tally.counts[bin], counts[bin]);
    }
}

// The tokens of marked bins, in any order.
KERNEL(gather, 256)
(Tally* tallies, const Slice* slices, const Ask* asks, const float* logits, int stride, int columns) {
    __shared__ uint32_t rooms[2][32];
    __shared__ uint32_t marks[BINS / 32];
    Tally& tally = tallies[blockIdx.y];
    if (threadIdx.x < BINS / 32) marks[threadIdx.x] = tally.marks[threadIdx.x];
    const Ask ask = asks[blockIdx.y];
    Row row(ask, logits, stride, columns);
    float values[COLUMNS_PER_THREAD];
    load_slice(values, row);
    Extremes ends = extremes(slices + blockIdx.y * gridDim.x, gridDim.x, rooms);
    if (!ends.are_finite()) return;
    row.measure(ends);
    for (int i = 0; i < COLUMNS_PER_THREAD; i++) {
        float below = row.below(values[i]);
        int bin = row.bin(below);
        bool is_marked = marks[bin / 32] >> bin % 32 & 1;
        if (!is_marked || column_of(i) >= columns || row.mass(below) == 0) continue;
        uint32_t place = atomicAdd(&tally.listed, 1u);
        if (place < LISTED_MAX) tally.keys[place] = key_of(below, column_of(i));
    }
}

// ---- by rows: a block for each ask ----

// Marks the bins that may hold what `settle` looks for. Where an amount lies within a bin is not known yet, so that those
// that depend on it are known by their bounds.
KERNEL(bracket, 1024)(Tally* tallies, const Ask* asks) {
    __shared__ uint64_t rooms[4][32];
    __shared__ uint64_t bounds[4][2];
    const Ask ask = asks[blockIdx.x];
    Tally& tally = tallies[blockIdx.x];
    int bin = threadIdx.x;
    uint64_t mass = tally.masses[bin], count = tally.counts[bin];
    uint64_t mass_before = block_sum_before(mass, rooms[0]), count_before = block_sum_before(count, rooms[1]);
    Span masses = {mass_before, mass_before + mass}, counts = {count_before, count_before + count};
    if (bin == BINS - 1) {
        bounds[0][0] = tally.mass = masses.end;
        bounds[0][1] = tally.count = counts.end;
    }
    __syncthreads();
    // The mass that is kept, at least and at most.
    uint64_t least = bounds[0][0], most = least;
    bool is_marked = false;
    // Those bins in which an amount of `first` to `last` may lie; what is kept ends in them.
    auto mark = [&](Span own, uint64_t first, uint64_t last, uint64_t* kept) {
        if (own.holds(first)) kept[0] = masses.begin + 1;
        if (own.holds(last)) kept[1] = masses.end;
        is_marked = is_marked || (own.begin <= last && first < own.end);
        __syncthreads();
        least = kept[0], most = kept[1];
    };
    if (least == 0) return;  // a logit is not finite
    if (ask.top_k > 0 && bounds[0][1] > ask.top_k) mark(counts, ask.top_k - 1, ask.top_k - 1, bounds[1]);
    if (ask.top_p > 0) mark(masses, part_up(ask.top_p, least) - 1, part_up(ask.top_p, most) - 1, bounds[2]);
    mark(masses, part(ask.uniform, least), part(ask.uniform, most), bounds[3]);
    tally.masses[bin] = block_sum_before(is_marked ? 0 : mass, rooms[2]);
    tally.counts[bin] = uint32_t(block_sum_before(is_marked ? 0 : count, rooms[3]));
    uint32_t marks = __ballot_sync(ALL_LANES, is_marked);
    if (bin % 32 == 0) tally.marks[bin / 32] = marks;
}

// The token that holds an amount, and the mass of all tokens through it.
struct Found {
    uint64_t key;
    uint64_t end;
};

enum class By { Count, Mass };

// Where the k-th token is known, what top-p is a share of is; and where its last is, what is drawn from. Each of the
// three is the token that holds an amount, by count or by mass.
template <class Find>
__device__ uint32_t draw_from_cut(const Ask& ask, const Tally& tally, Find& find) {
    uint64_t kept = tally.mass;
    if (ask.top_k > 0 && tally.count > ask.top_k) kept = find(By::Count, ask.top_k - 1).end;
    if (ask.top_p > 0) kept = find(By::Mass, part_up(ask.top_p, kept) - 1).end;
    return uint32_t(find(By::Mass, part(ask.uniform, kept)).key);
}

__device__ void sort(uint64_t* keys, int count) {
    for (int run = 2; run <= count; run *= 2) {
        for (int distance = run / 2; distance > 0; distance /= 2) {
            for (int i = threadIdx.x; i < count / 2; i += blockDim.x) {
                int a = 2 * i - i % distance, b = a + distance;
                bool ascends = (a & run) == 0;
                uint64_t first = keys[a], second = keys[b];
                if ((first > second) == ascends) keys[a] = second, keys[b] = first;
            }
            __syncthreads();
        }
    }
}

// Finds among the listed tokens, sorted. Of those that are not listed it knows how many are before.
struct FindListed {
    const Row& row;
    const Tally& tally;
    const uint64_t* keys;  // this thread's, shared
    uint64_t before;       // the mass of those listed before them
    Found* found;          // shared, one for each time

    __device__ FindListed(const Row& row, const Tally& tally, uint64_t* sorted, uint64_t* room, Found* found)
        : row(row), tally(tally), keys(sorted + threadIdx.x * LISTED_PER_THREAD), found(found) {
        int listed = int(tally.listed), padded = 1;
        while (padded < listed) padded *= 2;
        for (int i = threadIdx.x; i < LISTED_MAX; i += ROW_THREADS) sorted[i] = i < listed ? tally.keys[i] : NO_KEY;
        __syncthreads();
        sort(sorted, padded);
        uint64_t own = 0;
        for (int i = 0; i < LISTED_PER_THREAD; i++) {
            if (keys[i] != NO_KEY) own += row.mass(below_of(keys[i]));
        }
        before = block_sum_before(own, room);
    }

    __device__ Found operator()(By by, uint64_t amount) {
        Span masses = {before, before};
        for (int i = 0; i < LISTED_PER_THREAD && keys[i] != NO_KEY; i++) {
            float below = below_of(keys[i]);
            int bin = row.bin(below);
            masses = {masses.end, masses.end + row.mass(below)};
            uint64_t index = threadIdx.x * LISTED_PER_THREAD + i;
            bool holds = by == By::Mass ? masses.plus(tally.masses[bin]).holds(amount)
                                        : Span{index, index + 1}.plus(tally.counts[bin]).holds(amount);
            if (holds) *found = {keys[i], masses.end + tally.masses[bin]};
        }
        __syncthreads();
        return *found++;
    }
};

// Finds among all, bit by bit of the key: slow, and needed only where more tokens than fit are (nearly) equal just where
// something is cut or drawn.
struct FindAmongAll {
    const Row& row;
    uint64_t (*rooms)[32];
    int turn = 0;

    __device__ FindAmongAll(const Row& row, uint64_t (*rooms)[32]) : row(row), rooms(rooms) {}

    // Tokens before a key.
    __device__ uint64_t before(uint64_t key, By by) {
        uint64_t sum = 0;
        for (int column = threadIdx.x; column < row.columns; column += ROW_THREADS) {
            float below = row.below(row.logits[column]);
            if (key_of(below, column) >= key) continue;
            uint64_t mass = row.mass(below);
            sum += by == By::Mass ? mass : mass != 0;
        }
        turn ^= 1;
        return block_sum(sum, rooms[turn]);
    }

    __device__ Found operator()(By by, uint64_t amount) {
        uint64_t key = 0;
        for (int bit = 62; bit >= 0; bit--) {
            if (bit < 32 && bit >= COLUMN_BITS) continue;
            uint64_t further = key | 1ull << bit;
            if (before(further, by) <= amount) key = further;
        }
        return {key, before(key + 1, By::Mass)};
    }
};

// Where in a slice a draw falls.
struct Fall {
    int slice;
    uint64_t amount;  // of the slice's own mass
};

// Draws from all tokens in the order of their ids: first a slice, then a token of it.
__device__ uint32_t draw_from_all(const Ask& ask, Row& row, Extremes ends, const Slice* slices, int count,
                                  uint64_t (*rooms)[32]) {
    __shared__ uint64_t total;
    __shared__ Fall fall;
    __shared__ uint32_t drawn;
    Slice own = {};
    float weight = 0.0f;
    row.measure(ends);
    if (int(threadIdx.x) < count) {
        own = slices[threadIdx.x];
        weight = exp2f(-row.below(value_of(own.greatest)) * row.steepness);
    }
    uint64_t mass = uint64_t(double(own.mass) * weight);
    uint64_t begin = block_sum_before(mass, rooms[0]);
    if (threadIdx.x == ROW_THREADS - 1) total = begin + mass;
    __syncthreads();
    uint64_t amount = part(ask.uniform, total);
    if (Span{begin, begin + mass}.holds(amount)) {
        uint64_t within = uint64_t(double(amount - begin) / double(weight));
        fall = {int(threadIdx.x), min(within, own.mass - 1)};
    }
    __syncthreads();
    Slice slice = slices[fall.slice];
    row.measure({slice.greatest, slice.least});
    constexpr int own_columns = SLICE / ROW_THREADS;
    int first = fall.slice * SLICE + threadIdx.x * own_columns;
    auto mass_at = [&](int column) { return column < row.columns ? row.mass(row.below(row.logits[column])) : 0; };
    uint64_t sum = 0;
    for (int i = 0; i < own_columns; i++) sum += mass_at(first + i);
    begin = block_sum_before(sum, rooms[1]);
    for (int i = 0; i < own_columns; i++) {
        Span column = {begin, begin + mass_at(first + i)};
        if (column.holds(fall.amount)) drawn = first + i;
        begin = column.end;
    }
    __syncthreads();
    return drawn;
}

// What is said of an ask.
struct Chosen {
    uint32_t token;
    float value;  // its logit, where that is not finite
};

// Writes what was chosen; its place is the ask's.
KERNEL(settle, 1024)
(Chosen* chosen, const Tally* tallies, const Slice* slices, const Ask* asks, const float* logits, int stride,
 int columns) {
    __shared__ uint32_t order_rooms[3][32];
    __shared__ uint64_t rooms[2][32];
    __shared__ uint64_t sorted[LISTED_MAX];
    __shared__ Found found[3];
    const Ask& ask = asks[blockIdx.x];
    const Tally& tally = tallies[blockIdx.x];
    int count = (columns + SLICE - 1) / SLICE;
    slices += blockIdx.x * count;
    Extremes ends = extremes(slices, count, order_rooms);
    Row row(ask, logits, stride, columns);
    uint32_t token;
    float value = 0.0f;
    if (!ask.draws() || !ends.are_finite()) {
        bool has_it = int(threadIdx.x) < count && slices[threadIdx.x].greatest == ends.greatest;
        token = ~block_max(has_it ? ~slices[threadIdx.x].first : 0, order_rooms[2]);
        if (!ends.are_finite()) {
            value = row.logits[token];
            token |= NOT_FINITE_TOKEN;
        }
    } else if (!ask.cuts()) {
        token = draw_from_all(ask, row, ends, slices, count, rooms);
    } else {
        row.measure(ends);
        if (tally.listed <= LISTED_MAX) {
            FindListed find(row, tally, sorted, rooms[0], found);
            token = draw_from_cut(ask, tally, find);
        } else {
            FindAmongAll find(row, rooms);
            token = draw_from_cut(ask, tally, find);
        }
    }
    if (threadIdx.x == 0) chosen[ask.place] = {token, value};
}
