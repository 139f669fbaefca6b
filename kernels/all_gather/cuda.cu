// What the ranks gathered one after the other, row by row.

#include "device.cuh"

// to [rows, ranks * columns] from from [ranks, rows, columns]; words of 16 bits, `columns` of them in a row.
KERNEL(side_by_side, 256)(uint16_t* to, const uint16_t* from, int ranks, int rows, int columns) {
    int64_t count = int64_t(ranks) * rows * columns;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
        int column = int(i % columns), rank = int(i / columns % ranks);
        int64_t row = i / columns / ranks;
        to[i] = from[(int64_t(rank) * rows + row) * columns + column];
    }
}
