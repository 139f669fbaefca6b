// How one layer of the KV cache is stored: `[blocks][kv_heads][block_size][head_dim]` keys, and values likewise, so that
// the rows of one head's neighbouring slots are neighbours. FORMAT is the storage format, by the name of the weights that
// are stored alike.

#ifndef SHARDWIRE_KV_CACHE_CUH
#define SHARDWIRE_KV_CACHE_CUH

#include "device.cuh"

struct F32 {
    typedef float Element;
    static const bool scaled = false;
};

struct F16 {
    typedef f16 Element;
    static const bool scaled = false;
};

struct BF16 {
    typedef bf16 Element;
    static const bool scaled = false;
};

// An element is a multiple of its row's scale, `[blocks][kv_heads][block_size]`.
struct WINT8 {
    typedef int8_t Element;
    static const bool scaled = true;
};

typedef FORMAT::Element Element;

// The index of a row, which is below 2³¹.
__device__ __forceinline__ int kv_row(int block, int kv_heads, int head, int block_size, int offset) {
    return (block * kv_heads + head) * block_size + offset;
}

#endif  // SHARDWIRE_KV_CACHE_CUH
