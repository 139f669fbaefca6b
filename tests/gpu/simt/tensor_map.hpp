// Twins of what tensor_map.cuh has for a GPU: copies of boxes of a matrix, which are as late as they may be.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fiber.hpp"
#include "warp.hpp"

namespace simt {

// What the stand-in's driver puts into a tensor map.
struct EncodedMatrix {
    static constexpr uint64_t MARK = 0x7473652d78697274;
    uint64_t mark;
    const char* first;
    uint64_t columns, rows;
    uint64_t row_bytes;  // from one row to the next
    uint32_t element_bytes;
    uint32_t box_rows;
    uint32_t box_row_bytes;
    bool is_swizzled;  // as rows of 128 bytes may lie in shared memory
};

constexpr size_t TENSOR_MAP_BYTES = 128;
constexpr size_t TENSOR_MAP_ALIGNMENT = 64;
constexpr uint32_t SWIZZLED_ROW_BYTES = 128;
static_assert(sizeof(EncodedMatrix) <= TENSOR_MAP_BYTES);

void check_tensor_map(const void* map, Place place);
// The destination is NaN until the copy arrives, when nobody can go on but by waiting for the barrier.
void copy_box(void* to, const void* map, int column, int row, uint64_t* barrier, Place place);

}  // namespace simt

template <class TensorMap>
void prefetch_tensor_map(const TensorMap& map, SIMT_HERE) {
    simt::check_tensor_map(&map, place);
}

template <class TensorMap>
void copy_box(void* shared, const TensorMap& map, int column, int row, uint64_t* barrier, SIMT_HERE) {
    simt::copy_box(shared, &map, column, row, barrier, place);
}
