// Rows of a matrix by their indices, copied as they lie: in pieces as wide as a row's size allows, for its type does not
// matter. Each row is read and written once: 256 rows of 8192 in bf16 move 8 MB, 2.5 µs at 3.35 TB/s.

#include "device.cuh"

// to [rows, pieces] from the rows of `from` that `rows` names; a block for each, and some of its pieces in y.
template <class Piece>
__device__ void copy_row(Piece* to, const Piece* from, const unsigned* rows, int pieces) {
    int piece = blockIdx.y * blockDim.x + threadIdx.x;
    if (piece < pieces) to[int64_t(blockIdx.x) * pieces + piece] = from[int64_t(rows[blockIdx.x]) * pieces + piece];
}

KERNEL(select_rows_by_16, 256)(uint4* to, const uint4* from, const unsigned* rows, int pieces) {
    copy_row(to, from, rows, pieces);
}

KERNEL(select_rows_by_4, 256)(unsigned* to, const unsigned* from, const unsigned* rows, int pieces) {
    copy_row(to, from, rows, pieces);
}

KERNEL(select_rows_by_2, 256)(uint16_t* to, const uint16_t* from, const unsigned* rows, int pieces) {
    copy_row(to, from, rows, pieces);
}
