// Copies of boxes (cp.async.bulk.tensor) as a GPU may at worst do them: what a box overwrites is lost at once, and it
// arrives when no thread can go on without it.
#include "tensor_map.hpp"

#include <algorithm>
#include <cstring>

#include "block.hpp"
#include "traffic.hpp"
#include "warpgroups.hpp"

namespace simt {

namespace {

constexpr int POISON = 0xff;  // NaN in every floating-point format
constexpr uint32_t ALIGNMENT = 128, SWIZZLE_ALIGNMENT = 1024;
constexpr uint32_t BOX_BYTES_OF_ROW_MAX = 256 * 4;
constexpr uint32_t PIECE = 16;

size_t bytes_of(const EncodedMatrix& matrix) { return size_t(matrix.box_rows) * matrix.box_row_bytes; }

// Of a row of a box the bytes that lie in the matrix: where they are there, and where in the box's row.
struct Inside {
    const char* from;
    size_t start, bytes;
};

Inside inside(const BoxCopy& box, uint32_t box_row) {
    const EncodedMatrix& matrix = box.matrix;
    int64_t row = int64_t(box.row) + box_row, column = box.column;
    int64_t end = std::min<int64_t>(column + matrix.box_row_bytes / matrix.element_bytes, int64_t(matrix.columns));
    int64_t first = std::max<int64_t>(column, 0);
    if (row < 0 || row >= int64_t(matrix.rows) || first >= end) return {nullptr, 0, 0};
    const char* from = matrix.first + uint64_t(row) * matrix.row_bytes + uint64_t(first) * matrix.element_bytes;
    return {from, size_t(first - column) * matrix.element_bytes, size_t(end - first) * matrix.element_bytes};
}

void note_reads(const BoxCopy& box) {
    for (uint32_t row = 0; row < box.matrix.box_rows; row++) {
        Inside of = inside(box, row);
        if (of.bytes) note_read(of.from, of.bytes);
    }
}

void check(const Block& block, const BoxCopy& box) {
    size_t bytes = bytes_of(box.matrix), offset = size_t(box.to - block.dynamic_shared);
    uint32_t alignment = box.matrix.is_swizzled ? SWIZZLE_ALIGNMENT : ALIGNMENT;
    if (address_in_shared(box.to, box.place) % alignment) {
        fail(("copies a box to an address that is no multiple of " + std::to_string(alignment)).c_str(), box.place);
    }
    if (offset + bytes > block.launch->dynamic_shared) fail("copies a box beyond dynamic shared memory", box.place);
    if (is_unfenced(block, box.to, bytes)) {
        fail("copies a box over what a thread wrote, and did not hand over to the async proxy", box.place);
    }
    if (!is_barrier(box.barrier)) fail("copies a box for a barrier that was not initialized", box.place);
    for (const UnfencedBarrier& of : block.warpgroups.unfenced_barriers) {
        if (of.barrier != box.barrier) continue;
        fail("copies a box for a barrier that was not handed over to the async proxy", box.place);
    }
    for (const BoxCopy& other : block.warpgroups.boxes) {
        if (box.to < other.to + bytes_of(other.matrix) && other.to < box.to + bytes) {
            fail("copies a box to where another one is on its way", box.place);
        }
    }
}

// Swizzled, pieces of 16 bytes change places by their addresses: bits 4 to 6 by bits 7 to 9.
void arrive(const BoxCopy& box) {
    for (uint32_t row = 0; row < box.matrix.box_rows; row++) {
        uint32_t row_bytes = box.matrix.box_row_bytes;
        char line[BOX_BYTES_OF_ROW_MAX] = {};
        Inside of = inside(box, row);
        if (of.bytes) memcpy(line + of.start, of.from, of.bytes);
        for (uint32_t piece = 0; piece < row_bytes / PIECE; piece++) {
            uint32_t place = box.matrix.is_swizzled ? piece ^ row % 8 : piece;
            memcpy(box.to + row * row_bytes + place * PIECE, line + piece * PIECE, PIECE);
        }
    }
}

}  // namespace

void check_tensor_map(const void* map, Place place) {
    if (reinterpret_cast<uintptr_t>(map) % TENSOR_MAP_ALIGNMENT) fail("uses a tensor map that is not aligned", place);
    const auto& matrix = *static_cast<const EncodedMatrix*>(map);
    if (matrix.mark != EncodedMatrix::MARK) fail("uses what is no tensor map of the driver's", place);
}

void copy_box(void* to, const void* map, int column, int row, uint64_t* barrier, Place place) {
    check_tensor_map(map, place);
    Block& block = *self().warp->block;
    BoxCopy box{*static_cast<const EncodedMatrix*>(map), static_cast<char*>(to), column, row, barrier, place};
    check(block, box);
    if (COUNTS) note_reads(box);
    memset(to, POISON, bytes_of(box.matrix));
    block.warpgroups.boxes.push_back(box);
}

bool let_box_arrive(Block& block) {
    std::vector<BoxCopy>& boxes = block.warpgroups.boxes;
    const std::vector<BarrierWaiter>& waiters = block.warpgroups.waiters;
    std::vector<size_t> wanted;
    for (size_t at = 0; at < boxes.size(); at++) {
        auto is_for = [&](const BarrierWaiter& waiter) { return waiter.barrier == boxes[at].barrier; };
        if (std::any_of(waiters.begin(), waiters.end(), is_for)) wanted.push_back(at);
    }
    if (wanted.empty()) return false;
    unsigned seed = block.launch->seed;
    size_t chosen = seed == 0 ? wanted.front() : seed == 1 ? wanted.back() : wanted[block.random.next() % wanted.size()];
    BoxCopy box = boxes[chosen];
    boxes.erase(boxes.begin() + long(chosen));
    arrive(box);
    bring_to_barrier(block, box.barrier, int(bytes_of(box.matrix)), box.place);
    return true;
}

}  // namespace simt
