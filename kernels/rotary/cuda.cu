// Heads before attention: query and key heads are normed and turned, keys and values go to their slots of the cache.
//
// A block has a token and some of its heads, a warp a head at a time. The sines of a token are computed once for all
// heads of a block: for 8,192 tokens of 48 heads, one thread for each pair of each head would take 50 µs for them.
// Everything is read once from memory and written once: 8,192 tokens of 32 query and 8 KV heads of 128 in bf16 are
// 168 MB, 50 µs on an H100. What is needed again (a norm's sum and the greatest of a scaled row come before what is
// written) is read again from the cache and computed again, so that heads may be of any size; of 128 elements, a lane
// has four.
//
// variants: FORMAT f32 f16 bf16 wint8 f8_e4m3

#include "device.cuh"
#include "kv_cache.cuh"

// A token whose key and value are not kept, as in kernels/cuda/batch.rs.
#define NO_SLOT 0xffffffffu

// The greatest stored number of a scaled row.
#define GREATEST 127.0f

template <class T>
__device__ __forceinline__ T rounded(float x) {
    return from_float<T>(x);
}

// Half-way cases go to the even number, as on the CPU.
template <>
__device__ __forceinline__ int8_t rounded<int8_t>(float x) {
    return int8_t(__float2int_rn(x));
}

// So many neighbouring numbers, moved by one instruction.
template <class T, int count>
struct alignas(sizeof(T) * count) Several {
    T elements[count];
};

// What a lane takes of a head at once: two runs of neighbours, that begin at these elements. Where a head turns they are
// whole pairs.
struct Runs {
    int first, second;
};

// A head of `dim` elements, a multiple of twice the `length` of a run; so are those that turn.
template <int length>
struct Head {
    const act* elements;
    // Of its norm, or null; and what elements are multiplied by besides.
    const float* weight;
    float inverse;
    // Cosines and sines of the pairs that turn.
    const float2* turns;
    int pairs;
    bool interleaved;
    int dim;

    // `index` is below dim / (2 · length); those below pairs / length turn.
    __device__ __forceinline__ Runs runs(int index) const {
        bool halves = !interleaved && index < pairs / length;
        int first = (halves ? 1 : 2) * length * index;
        return Runs{first, first + (halves ? pairs : length)};
    }

    // Both runs, one after the other, as stored …
    __device__ __forceinline__ void read(Runs at, float values[2 * length]) const {
        typedef Several<act, length> Run;
        Run first = *reinterpret_cast<const Run*>(elements + at.first);
        Run second = *reinterpret_cast<const Run*>(elements + at.second);
        for (int i = 0; i < length; i++) values[i] = to_float(first.elements[i]);
        for (int i = 0; i < length; i++) values[length + i] = to_float(second.elements[i]);
    }

    // … and normed and turned.
    __device__ __forceinline__ void make(int index, Runs at, float values[2 * length]) const {
        read(at, values);
        if (weight != nullptr) {
            for (int i = 0; i < length; i++) {
                values[i] *= inverse * weight[at.first + i];
                values[length + i] *= inverse * weight[at.second + i];
            }
        }
        if (index >= pairs / length) return;
        for (int i = 0; i < length; i++) {
            float* x = values + (interleaved ? 2 * i : i);
            float* y = values + (interleaved ? 2 * i + 1 : length + i);
            float2 turn = turns[length * index + i];
            float turned = *x * turn.x - *y * turn.y;
            *y = *x * turn.y + *y * turn.x;
            *x = turned;
        }
    }

    // Takes the sum for the norm; all lanes of the warp together.
    __device__ __forceinline__ void prepare(float eps) {
        if (weight == nullptr) return;
        float squares = 0.0f;
#pragma unroll 1
        for (int index = threadIdx.x % 32; index < dim / (2 * length); index += 32) {
            float values[2 * length];
            read(runs(index), values);
            for (int i = 0; i < 2 * length; i++) squares += values[i] * values[i];
        }
        inverse = rsqrtf(warp_sum(squares) / float(dim) + eps);
    }

    template <class T>
    static __device__ __forceinline__ void write(T* to, Runs at, const float values[2 * length], float factor) {
        typedef Several<T, length> Run;
        Run first, second;
        for (int i = 0; i < length; i++) first.elements[i] = rounded<T>(values[i] * factor);
        for (int i = 0; i < length; i++) second.elements[i] = rounded<T>(values[length + i] * factor);
        *reinterpret_cast<Run*>(to + at.first) = first;
        *reinterpret_cast<Run*>(to + at.second) = second;
    }

    // Where it is; what neither turns nor is normed stays.
    __device__ __forceinline__ void replace(act* own) const {
        int count = weight != nullptr ? dim / (2 * length) : pairs / length;
#pragma unroll 1
        for (int index = threadIdx.x % 32; index < count; index += 32) {
            Runs at = runs(index);
            float values[2 * length];
            make(index, at, values);
            write(own, at, values, 1.0f);
        }
    }

    // As a row of the cache.
    __device__ __forceinline__ void keep(Element* to, float* scale) const {
        float factor = 1.0f;
        if (FORMAT::scaled) {
            float greatest = 0.0f;
#pragma unroll 1
            for (int index = threadIdx.x % 32; index < dim / (2 * length); index += 32) {
                float values[2 * length];
                make(index, runs(index), values);
                for (int i = 0; i < 2 * length; i++) greatest = fmaxf(greatest, fabsf(values[i]));
            }
            greatest = warp_max(greatest);
            float step = greatest > 0.0f ? __fdiv_rn(greatest, GREATEST) : 1.0f;
            factor = __fdiv_rn(1.0f, step);
            if (threadIdx.x % 32 == 0) *scale = step;
        }
#pragma unroll 1
        for (int index = threadIdx.x % 32; index < dim / (2 * length); index += 32) {
            Runs at = runs(index);
            float values[2 * length];
            make(index, at, values);
            write(to, at, values, factor);
        }
    }
};

// What the heads of a row are, and what becomes of them.
struct Rows {
    act* qkv;  // [tokens, row_columns]: query heads, key heads, value heads unless `values` is null
    // `[blocks][kv_heads][block_size][head_dim]`, one layer's; and of each row the scale, where the format has them.
    Element* keys;
    Element* values;
    float* key_scales;
    float* value_scales;
    const float* query_norm;
    const float* key_norm;
    int row_columns, query_heads, kv_heads, head_dim, block_size;
};

template <int length>
__device__ __forceinline__ void rotary_store(const Rows& rows, uint32_t slot, const float2* turns, int pairs,
                                             bool interleaved, float eps) {
    int warps = blockDim.x / 32;
    int heads = rows.query_heads + (rows.values ? 2 : 1) * rows.kv_heads;
    // Copies of a sequence that fill a batch up leave no keys and values.
    if (slot == NO_SLOT) heads = rows.query_heads;
    for (int index = blockIdx.y * warps + threadIdx.x / 32; index < heads; index += gridDim.y * warps) {
        act* own = rows.qkv + int64_t(blockIdx.x) * rows.row_columns + index * rows.head_dim;
        bool is_query = index < rows.query_heads, is_value = index >= rows.query_heads + rows.kv_heads;
        const float* weight = is_query ? rows.query_norm : is_value ? nullptr : rows.key_norm;
        Head<length> head{own, weight, 1.0f, turns, is_value ? 0 : pairs, interleaved, rows.head_dim};
        head.prepare(eps);
        if (is_query) {
            head.replace(own);
            continue;
        }
        int kv_head = index - rows.query_heads - (is_value ? rows.kv_heads : 0);
        int block = int(slot) / rows.block_size, offset = int(slot) % rows.block_size;
        int64_t at = kv_row(block, rows.kv_heads, kv_head, rows.block_size, offset);
        float* scale = FORMAT::scaled ? (is_value ? rows.value_scales : rows.key_scales) + at : nullptr;
        head.keep((is_value ? rows.values : rows.keys) + at * rows.head_dim, scale);
    }
}

// Blocks: tokens in x, in y the heads of a token. Dynamic shared memory: a cosine and a sine for each of `pairs` pairs.
// `head_dim` is even; norms are null where there are none.
KERNEL(rotary_store, 256)
(act* qkv, Element* keys, Element* values, float* key_scales, float* value_scales, const float* query_norm,
 const float* key_norm, const float* frequencies, const uint32_t* positions, const uint32_t* slots, int row_columns,
 int query_heads, int kv_heads, int head_dim, int block_size, int pairs, int interleaved, float magnitude, float eps) {
    DYNAMIC_SHARED(float2, turns);
    let_next_begin();
    // Positions are the host's, and were there before the step began.
    for (int pair = threadIdx.x; pair < pairs; pair += blockDim.x) {
        // Rounded to f32 before the sine is taken, as in the models' training.
        float angle = __fmul_rn(float(positions[blockIdx.x]), frequencies[pair]);
        float sine, cosine;
        sincosf(angle, &sine, &cosine);
        turns[pair] = make_float2(cosine * magnitude, sine * magnitude);
    }
    __syncthreads();
    wait_for_last();
    Rows rows{qkv,         keys,        values,   key_scales, value_scales, query_norm, key_norm,
              row_columns, query_heads, kv_heads, head_dim,   block_size};
    uint32_t slot = slots[blockIdx.x];
    if (head_dim % 4 == 0 && pairs % 2 == 0) {
        rotary_store<2>(rows, slot, turns, pairs, interleaved, eps);
    } else {
        rotary_store<1>(rows, slot, turns, pairs, interleaved, eps);
    }
}
