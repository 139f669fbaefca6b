// Kernels that are right, and their twins that lack something.
#include <cmath>
#include <numeric>

#include "cases.hpp"

using namespace selftest;

namespace {

std::vector<float> ramp(size_t count) {
    std::vector<float> values(count);
    for (size_t at = 0; at < count; at++) values[at] = float(at % 97) - 20.0f;
    return values;
}

std::vector<unsigned> numbers(size_t count) {
    std::vector<unsigned> values(count);
    for (size_t at = 0; at < count; at++) values[at] = unsigned(at * at * 7 + 3) % 1000;
    return values;
}

// ---- barriers ----

constexpr unsigned THREADS = 256;

std::vector<float> through_shared(const char* kernel) {
    Gpu gpu;
    CUdeviceptr x = gpu.put(ramp(THREADS)), y = gpu.room(THREADS * 4);
    gpu.launch(kernel, {1, THREADS, THREADS * 4}, y, x);
    return gpu.get<float>(y, THREADS);
}

void check_reverse(const char* kernel) {
    std::vector<float> x = ramp(THREADS), y = through_shared(kernel);
    for (unsigned at = 0; at < THREADS; at++) CHECK(y[at] == x[THREADS - 1 - at]);
}

void check_pass_on(const char* kernel) {
    std::vector<float> x = ramp(THREADS), y = through_shared(kernel);
    for (unsigned at = 0; at < THREADS; at++) CHECK(y[at] == 8.0f * x[(at + 3) % THREADS]);
}

void check_swap(const char* kernel) {
    std::vector<float> x = ramp(THREADS), y = through_shared(kernel);
    for (unsigned at = 0; at < THREADS; at++) CHECK(y[at] == x[at ^ 1]);
}

TEST(a_barrier, Passes) { check_reverse("reverse"); }
TEST(a_missing_barrier, Fails) { check_reverse("reverse_wrong"); }
TEST(two_barriers, Passes) { check_pass_on("pass_on"); }
TEST(a_missing_second_barrier, Fails) { check_pass_on("pass_on_wrong"); }
TEST(a_warps_barrier, Passes) { check_swap("swap_in_warp"); }
TEST(a_missing_warps_barrier, Fails) { check_swap("swap_in_warp_wrong"); }

TEST(a_sum_over_a_block, Passes) {
    std::vector<float> x = ramp(THREADS), y = through_shared("sum_block");
    float sum = std::accumulate(x.begin(), x.end(), 0.0f);
    for (float each : y) CHECK(each == sum);
}

TEST(votes_of_a_block, Passes) {
    Gpu gpu;
    std::vector<float> x = ramp(THREADS);
    CUdeviceptr at = gpu.put(x), y = gpu.room(THREADS * 4);
    gpu.launch("count_positive", {1, THREADS, 0}, y, at);
    int positive = 0;
    for (float each : x) positive += each > 0.0f;
    for (int each : gpu.get<int>(y, THREADS)) CHECK(each == positive * 4 + 1);
}

TEST(an_exit_before_a_barrier, Dies, "__syncthreads") { through_shared("exit_early_wrong"); }
TEST(two_places_of_a_barrier, Dies, "in another __syncthreads") { through_shared("two_barriers_wrong"); }
TEST(a_barrier_of_some, Dies, "no thread can go on") { through_shared("half_a_barrier_wrong"); }

// ---- clusters ----

constexpr unsigned CLUSTER_COLUMNS = 2 * (THREADS - 32);

void check_add_blocks(const char* kernel) {
    Gpu gpu;
    for (unsigned blocks : {1u, 3u, 8u}) {
        std::vector<float> x = ramp(blocks * CLUSTER_COLUMNS);
        CUdeviceptr from = gpu.put(x), y = gpu.room(x.size() * 4);
        OK(gpu.launch_cluster(kernel, blocks, {blocks, THREADS, CLUSTER_COLUMNS * 4}, y, from));
        std::vector<float> sums = gpu.get<float>(y, x.size());
        for (unsigned at = 0; at < CLUSTER_COLUMNS; at++) {
            float sum = 0.0f;
            for (unsigned block = 0; block < blocks; block++) sum += float(block + 1) * x[block * CLUSTER_COLUMNS + at];
            for (unsigned block = 0; block < blocks; block++) {
                CHECK(sums[block * CLUSTER_COLUMNS + at] == sum / float(block + 1));
            }
        }
    }
}

TEST(blocks_of_a_cluster, Passes) { check_add_blocks("add_blocks"); }
TEST(a_block_that_may_not_have_begun, Dies, "may not have begun") { check_add_blocks("add_blocks_early_wrong"); }
TEST(a_block_that_may_have_ended, Dies, "may have ended") { check_add_blocks("add_blocks_late_wrong"); }

TEST(a_block_of_no_cluster, Dies, "its cluster does not have") {
    Gpu gpu;
    CUdeviceptr y = gpu.room(8);
    OK(gpu.launch_cluster("ask_beyond_wrong", 2, {2, 32, 8}, y));
    gpu.synchronize();
}

TEST(clusters_that_can_not_be, Passes) {
    Gpu gpu;
    CUdeviceptr y = gpu.room(8);
    CHECK(gpu.launch_cluster("ask_beyond_wrong", 9, {9, 32, 8}, y) == CUDA_ERROR_INVALID_CLUSTER_SIZE);
    CHECK(gpu.launch_cluster("ask_beyond_wrong", 2, {3, 32, 8}, y) == CUDA_ERROR_INVALID_CLUSTER_SIZE);
}

// On four multiprocessors.
TEST(clusters_at_once, Passes) {
    Gpu gpu;
    auto of_blocks = [&](unsigned blocks, Grid grid) {
        return gpu.clusters_at_once<CUdeviceptr, CUdeviceptr>("add_blocks", blocks, grid);
    };
    Grid whole = {8, 256, 200 * 1024};
    CHECK(of_blocks(1, whole) == 4);
    CHECK(of_blocks(2, whole) == 2);
    CHECK(of_blocks(3, whole) == 1);
    CHECK(of_blocks(8, whole) == 0);
    CHECK(of_blocks(8, {8, 256, 100 * 1024}) == 1);
}

// ---- warps ----

std::vector<unsigned> of_a_warp(const char* kernel, unsigned threads = 32, size_t results = 32) {
    Gpu gpu;
    CUdeviceptr x = gpu.put(numbers(64)), y = gpu.room(results * 4);
    gpu.launch(kernel, {1, threads, 0}, y, x);
    return gpu.get<unsigned>(y, results);
}

TEST(what_lanes_tell_each_other, Passes) {
    std::vector<unsigned> x = numbers(64), y = of_a_warp("tell", 32, 256);
    unsigned even = 0, greatest = 0, sum = 0;
    bool any = false, all = true;
    for (unsigned lane = 0; lane < 32; lane++) {
        even |= unsigned(x[lane] % 2 == 0) << lane;
        greatest = std::max(greatest, x[lane]);
        sum += x[lane];
        any = any || x[lane] == 7;
        all = all && x[lane] < 1000;
    }
    for (unsigned lane = 0; lane < 32; lane++) {
        unsigned same = 0;
        for (unsigned other = 0; other < 32; other++) same |= unsigned(x[other] % 4 == x[lane] % 4) << other;
        CHECK(y[lane] == x[lane * 7 % 32]);
        CHECK(y[32 + lane] == x[lane ^ 5]);
        CHECK(y[64 + lane] == x[lane + 3 < 32 ? lane + 3 : lane]);
        CHECK(y[96 + lane] == x[lane % 8 >= 3 ? lane - 3 : lane]);
        CHECK(y[128 + lane] == even);
        CHECK(y[160 + lane] == unsigned(any) * 2 + unsigned(all));
        CHECK(y[192 + lane] == greatest + sum);
        CHECK(y[224 + lane] == same);
    }
}

TEST(halves_of_a_warp, Passes) {
    std::vector<unsigned> x = numbers(64), y = of_a_warp("halves");
    unsigned sums[2] = {};
    for (unsigned lane = 0; lane < 32; lane++) sums[lane / 16] += x[lane];
    for (unsigned lane = 0; lane < 32; lane++) CHECK(y[lane] == sums[lane / 16]);
}

TEST(a_shuffle_of_some, Dies, "exit") { of_a_warp("diverge_wrong"); }
TEST(a_shuffle_of_some_before_a_barrier, Dies, "no thread can go on") { of_a_warp("diverge_and_wait_wrong"); }
TEST(a_shuffle_from_outside_of_the_mask, Dies, "not in the mask") { of_a_warp("outside_of_mask_wrong"); }
TEST(a_lane_outside_of_its_mask, Dies, "not in the mask of its own") { of_a_warp("not_in_mask_wrong"); }
TEST(lanes_in_different_operations, Dies, "different warp operations") { of_a_warp("two_operations_wrong"); }
TEST(lanes_at_different_places, Dies, "at different places") { of_a_warp("two_places_wrong"); }
TEST(a_mask_of_lanes_that_are_not_there, Dies, "don't exist") { of_a_warp("no_such_lanes_wrong", 20); }

TEST(threads_of_all_dimensions, Passes) {
    Gpu gpu;
    constexpr unsigned BLOCKS = 2 * 3 * 4, SIZE = 5 * 6 * 7;
    CUdeviceptr y = gpu.room(BLOCKS * SIZE * 4);
    CUfunction function = gpu.load("who_f32", entry_text<CUdeviceptr>("who_f32"));
    void* values[] = {&y};
    OK(cuLaunchKernel(function, 2, 3, 4, 5, 6, 7, 0, gpu.stream, values, nullptr));
    std::vector<unsigned> told = gpu.get<unsigned>(y, BLOCKS * SIZE);
    for (unsigned at = 0; at < BLOCKS * SIZE; at++) CHECK(told[at] == at / SIZE * 10000 + at % SIZE);
}

TEST(atomics, Passes) {
    Gpu gpu;
    CUdeviceptr y = gpu.room(12), z = gpu.room(4);
    gpu.launch("add_up", {7, 1024, 0}, y, z, 20000);
    std::vector<unsigned> sums = gpu.get<unsigned>(y, 3);
    CHECK(sums[0] == 20000u * 19999 / 2 && sums[1] == 19999 && sums[2] == 17);
    CHECK(gpu.get<float>(z, 1)[0] == 10000.0f);
}

// ---- asynchronous copies ----

constexpr int STEPS = 5;

void check_twice(const char* kernel, int missing = 0) {
    Gpu gpu;
    constexpr unsigned SIZE = 128;
    std::vector<float> x = ramp(size_t(STEPS) * SIZE * 4);
    CUdeviceptr from = gpu.put(x), y = gpu.room(x.size() * 4);
    int valid = int(STEPS * SIZE) - missing;
    gpu.launch(kernel, {1, SIZE, 2 * SIZE * 16}, y, from, STEPS, valid);
    std::vector<float> got = gpu.get<float>(y, x.size());
    for (size_t at = 0; at < x.size(); at++) CHECK(got[at] == (at / 4 < size_t(valid) ? 2 * x[at] : 0.0f));
}

TEST(copies_on_their_way, Passes) { check_twice("twice_staged"); }
TEST(copies_of_nothing, Passes) { check_twice("twice_staged", 100); }
TEST(a_wait_that_is_too_weak, Fails) { check_twice("twice_weak_wait_wrong"); }
TEST(a_copy_without_a_barrier, Fails) { check_twice("twice_no_barrier_wrong"); }
TEST(a_copy_that_nobody_waits_for, Dies, "asynchronous copy is pending") { check_twice("never_waited_wrong"); }
TEST(a_copy_from_an_unaligned_address, Dies, "not aligned") { check_twice("misaligned_wrong"); }

// ---- tensor cores ----

uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return uint16_t(bits >> 16);
}

// Of small whole numbers, which every format has.
uint16_t to_f16(float value) {
    if (value == 0.0f) return 0;
    int exponent;
    float fraction = frexpf(fabsf(value), &exponent);
    return uint16_t((value < 0 ? 0x8000 : 0) | (exponent + 14) << 10 | int(fraction * 2048.0f - 1024.0f));
}

float small(size_t at) { return float(int(at * 5 % 13) - 6); }

void check_product(const char* kernel, uint16_t (*convert)(float), bool transposed) {
    Gpu gpu;
    std::vector<uint16_t> a(256), b(128);
    for (size_t at = 0; at < 256; at++) a[at] = convert(small(at));
    for (size_t at = 0; at < 128; at++) b[at] = convert(small(at + 3));
    CUdeviceptr a_at = gpu.put(a), b_at = gpu.put(b), c_at = gpu.room(128 * 4);
    gpu.launch(kernel, {1, 32, 0}, c_at, a_at, b_at);
    std::vector<float> c = gpu.get<float>(c_at, 128);
    for (size_t row = 0; row < 16; row++) {
        for (size_t column = 0; column < 8; column++) {
            float sum = 0.0f;
            for (size_t k = 0; k < 16; k++) {
                sum += small(row * 16 + k) * small((transposed ? k * 8 + column : column * 16 + k) + 3);
            }
            CHECK(c[row * 8 + column] == sum);
        }
    }
}

TEST(a_product_of_bf16, Passes) { check_product("product_bf16", to_bf16, false); }
TEST(a_product_of_bf16_transposed, Passes) { check_product("product_bf16_transposed", to_bf16, true); }
TEST(a_product_of_f16, Passes) { check_product("product_f16", to_f16, false); }

TEST(a_product_of_tf32, Passes) {
    Gpu gpu;
    std::vector<float> a(128), b(64);
    for (size_t at = 0; at < 128; at++) a[at] = small(at);
    for (size_t at = 0; at < 64; at++) b[at] = small(at + 3);
    CUdeviceptr a_at = gpu.put(a), b_at = gpu.put(b), c_at = gpu.room(128 * 4);
    gpu.launch("product_tf32", {1, 32, 0}, c_at, a_at, b_at);
    std::vector<float> c = gpu.get<float>(c_at, 128);
    for (size_t at = 0; at < 128; at++) {
        float sum = 0.0f;
        for (size_t k = 0; k < 8; k++) sum += a[at / 8 * 8 + k] * b[at % 8 * 8 + k];
        CHECK(c[at] == sum);
    }
}

TEST(a_product_of_int8, Passes) {
    Gpu gpu;
    std::vector<int8_t> a(16 * 32), b(8 * 32);
    for (size_t at = 0; at < a.size(); at++) a[at] = int8_t(at * 37);
    for (size_t at = 0; at < b.size(); at++) b[at] = int8_t(at * 91 + 5);
    CUdeviceptr a_at = gpu.put(a), b_at = gpu.put(b), c_at = gpu.room(128 * 4);
    gpu.launch("product_int8", {1, 32, 0}, c_at, a_at, b_at);
    std::vector<int> c = gpu.get<int>(c_at, 128);
    for (size_t at = 0; at < 128; at++) {
        int sum = 0;
        for (size_t k = 0; k < 32; k++) sum += a[at / 8 * 32 + k] * b[at % 8 * 32 + k];
        CHECK(c[at] == sum);
    }
}

TEST(rows_that_are_not_aligned, Dies, "aligned to 16 bytes") {
    Gpu gpu;
    CUdeviceptr a = gpu.room(512), b = gpu.room(256), c = gpu.room(512);
    gpu.launch("misaligned_rows_wrong", {1, 32, 1024}, c, a, b);
    gpu.synchronize();
}

// ---- products of warpgroups ----

constexpr size_t GROUP_ROWS = 64, GROUP_COLUMNS = 128, GROUP_DEPTH = 64;
// Two tiles, and what aligns them.
constexpr unsigned GROUP_SHARED = 1024 + (64 + 128) * 128;

// Numbers whose sums f32 has exactly.
std::vector<uint16_t> small_ones(size_t count, size_t from, uint16_t (*convert)(float)) {
    std::vector<uint16_t> values(count);
    for (size_t at = 0; at < count; at++) values[at] = convert(small(at + from));
    return values;
}

void check_warpgroup(const char* kernel, uint16_t (*convert)(float), bool transposed, unsigned threads = 128,
                     size_t columns = GROUP_COLUMNS) {
    Gpu gpu;
    CUdeviceptr a = gpu.put(small_ones(GROUP_ROWS * GROUP_DEPTH, 0, convert));
    CUdeviceptr b = gpu.put(small_ones(columns * GROUP_DEPTH, 5, convert));
    CUdeviceptr c = gpu.put(ramp(GROUP_ROWS * columns));
    gpu.launch(kernel, {1, threads, GROUP_SHARED}, c, a, b);
    std::vector<float> got = gpu.get<float>(c, GROUP_ROWS * columns), before = ramp(got.size());
    for (size_t at = 0; at < got.size(); at++) {
        size_t row = at / columns, column = at % columns;
        float sum = transposed ? before[at] : 0.0f;  // that one adds
        for (size_t k = 0; k < GROUP_DEPTH; k++) {
            size_t of_b = transposed ? k * columns + column : column * GROUP_DEPTH + k;
            sum += small(row * GROUP_DEPTH + k) * small(of_b + 5);
        }
        CHECK(got[at] == sum);
    }
}

void check_rows(const char* kernel) { check_warpgroup(kernel, to_bf16, false); }

TEST(a_warpgroups_product_of_bf16, Passes) { check_rows("rows_bf16"); }
TEST(a_warpgroups_product_of_f16, Passes) { check_warpgroup("rows_f16", to_f16, false); }
TEST(a_warpgroups_product_of_registers, Passes) { check_warpgroup("columns_bf16", to_bf16, true); }
TEST(a_warpgroups_product_of_registers_in_f16, Passes) { check_warpgroup("columns_f16", to_f16, true); }
TEST(a_warpgroups_product_of_few_columns, Passes) { check_warpgroup("adds_32_bf16", to_bf16, false, 128, 32); }
TEST(a_warpgroups_product_of_some_columns, Passes) { check_warpgroup("adds_64_bf16", to_bf16, false, 128, 64); }
TEST(a_warpgroups_product_of_factors_in_turn, Passes) { check_warpgroup("adds_128_bf16", to_bf16, false); }
TEST(factors_in_turn_that_nobody_waits_for, Dies, "changed before it was waited for") {
    check_warpgroup("adds_waited_too_little_wrong", to_bf16, false);
}
TEST(factors_that_the_async_proxy_does_not_know, Dies, "did not hand over") {
    check_rows("rows_not_handed_over_wrong");
}
TEST(copies_that_the_async_proxy_does_not_know, Dies, "did not hand over") {
    check_warpgroup("columns_not_handed_over_wrong", to_bf16, true);
}
TEST(factors_that_are_not_there_yet, Fails) { check_rows("rows_not_together_wrong"); }
TEST(a_warpgroups_product_without_a_fence, Dies, "without a fence before it") { check_rows("rows_not_fenced_wrong"); }
TEST(a_warpgroups_product_that_nobody_waits_for, Dies, "product of its warpgroup is pending") {
    check_rows("rows_not_waited_wrong");
}
TEST(a_wait_for_too_few_products, Fails) { check_rows("rows_waited_too_little_wrong"); }
TEST(a_factor_that_changes_too_early, Dies, "changed before it was waited for") {
    check_rows("rows_factor_changed_wrong");
}
TEST(a_sum_that_is_written_too_early, Dies, "were written before it was waited for") {
    check_rows("rows_sum_changed_wrong");
}
TEST(lanes_with_different_factors, Dies, "lanes of a warp give a product different matrices") {
    check_rows("rows_of_lanes_wrong");
}
TEST(warps_with_different_factors, Dies, "warps of a warpgroup began different products") {
    check_rows("rows_of_warps_wrong");
}
TEST(factors_without_a_swizzle, Dies, "another swizzle") { check_rows("rows_not_swizzled_wrong"); }
TEST(factors_beyond_shared_memory, Dies, "reads beyond dynamic shared memory") { check_rows("rows_beyond_wrong"); }
TEST(a_block_without_a_warpgroup, Dies, "is in no warpgroup") {
    check_warpgroup("rows_bf16", to_bf16, false, 96);
}

// ---- barriers in shared memory ----

void check_hand_on(const char* kernel) {
    Gpu gpu;
    constexpr size_t SIZE = 7 * 32;
    CUdeviceptr x = gpu.put(ramp(SIZE)), y = gpu.room(SIZE * 4);
    gpu.launch(kernel, {1, 96, 0}, y, x, int(SIZE / 32));
    std::vector<float> got = gpu.get<float>(y, SIZE), from = ramp(SIZE);
    for (size_t at = 0; at < SIZE; at++) CHECK(got[at] == 2 * from[at]);
}

TEST(barriers_of_a_ring, Passes) { check_hand_on("hand_on"); }
TEST(a_barrier_that_is_none, Dies, "was not initialized") { check_hand_on("hand_on_not_initialized_wrong"); }
TEST(a_slot_that_is_not_full, Fails) { check_hand_on("hand_on_full_not_awaited_wrong"); }
TEST(a_slot_that_is_not_empty, Fails) { check_hand_on("hand_on_empty_not_awaited_wrong"); }
TEST(a_barrier_that_expects_too_few, Fails) { check_hand_on("hand_on_too_few_wrong"); }
TEST(a_barrier_that_expects_too_many, Dies, "no thread can go on") { check_hand_on("hand_on_too_many_wrong"); }
TEST(a_barrier_of_another_parity, Fails) { check_hand_on("hand_on_other_parity_wrong"); }

// ---- copies of boxes ----

constexpr size_t MATRIX_ROWS = 40, MATRIX_COLUMNS = 128, BOX_ROWS = 16, BOX_COLUMNS = 64;

uint16_t element(size_t matrix, int row, int column) {
    bool is_there = row >= 0 && row < int(MATRIX_ROWS) && column >= 0 && column < int(MATRIX_COLUMNS);
    return is_there ? uint16_t(1 + matrix * 7 + size_t(row) * 251 + size_t(column)) : 0;
}

std::vector<uint16_t> matrix_of(size_t number) {
    std::vector<uint16_t> elements;
    for (int at = 0; at < int(MATRIX_ROWS * MATRIX_COLUMNS); at++) {
        elements.push_back(element(number, at / int(MATRIX_COLUMNS), at % int(MATRIX_COLUMNS)));
    }
    return elements;
}

void check_boxes(const char* kernel, int column = 64, int row = 5, int steps = 3) {
    Gpu gpu;
    constexpr size_t SIZE = BOX_ROWS * BOX_COLUMNS;
    auto put = [&](size_t number) {
        return map_of(gpu.put(matrix_of(number)), MATRIX_ROWS, MATRIX_COLUMNS, BOX_ROWS);
    };
    Maps maps{put(0), put(1)};
    CUdeviceptr y = gpu.room(2 * SIZE * 2);
    gpu.launch(kernel, {1, 32, unsigned(1024 + 2 * SIZE * 2)}, y, maps, column, row, steps);
    std::vector<uint16_t> got = gpu.get<uint16_t>(y, 2 * SIZE);
    for (size_t at = 0; at < 2 * SIZE; at++) {
        int in_row = int(at / BOX_COLUMNS % BOX_ROWS), in_column = int(at % BOX_COLUMNS);
        CHECK(got[at] == element(at / SIZE, row + in_row, column + in_column));
    }
}

TEST(boxes, Passes) { check_boxes("boxes"); }
TEST(boxes_across_a_matrix_end, Passes) { check_boxes("boxes", 0, 33); }
TEST(boxes_before_a_matrix, Passes) { check_boxes("boxes", -20, -3); }
TEST(boxes_behind_a_rows_end, Passes) { check_boxes("boxes", 90, 0); }
TEST(boxes_outside_of_a_matrix, Passes) { check_boxes("boxes", 0, -128); }

void check_boxes_of_bytes(int column, int row, int misplaced = 0) {
    Gpu gpu;
    constexpr size_t COLUMNS = 200, STRIDE = 416, BYTES = 144;
    std::vector<uint8_t> matrix(MATRIX_ROWS * STRIDE, 255);  // what lies between rows
    auto byte = [](size_t row, size_t column) { return uint8_t(row * 31 + column); };
    for (size_t at = 0; at < MATRIX_ROWS * COLUMNS; at++) {
        matrix[at / COLUMNS * STRIDE + at % COLUMNS] = byte(at / COLUMNS, at % COLUMNS);
    }
    CUdeviceptr y = gpu.room(BOX_ROWS * BYTES);
    Maps maps;
    cuuint64_t sizes[] = {COLUMNS, MATRIX_ROWS}, strides[] = {STRIDE};
    cuuint32_t box[] = {BYTES, BOX_ROWS}, steps[] = {1, 1};
    OK(cuTensorMapEncodeTiled(&maps.first, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, reinterpret_cast<void*>(gpu.put(matrix)),
                              sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
                              CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
    gpu.launch("boxes_of_bytes", {1, 32, unsigned(256 + BOX_ROWS * BYTES)}, y, maps, column, row, misplaced);
    std::vector<uint8_t> got = gpu.get<uint8_t>(y, BOX_ROWS * BYTES);
    for (size_t at = 0; at < got.size(); at++) {
        size_t of_row = size_t(row) + at / BYTES, of_column = size_t(column) + at % BYTES;
        CHECK(got[at] == (of_row < MATRIX_ROWS && of_column < COLUMNS ? byte(of_row, of_column) : 0));
    }
}

TEST(boxes_of_bytes, Passes) { check_boxes_of_bytes(16, 3); }
TEST(boxes_of_bytes_across_a_matrix_end, Passes) { check_boxes_of_bytes(112, 30); }
TEST(boxes_of_bytes_at_an_unaligned_address, Dies, "no multiple of 128") { check_boxes_of_bytes(0, 0, 16); }
TEST(boxes_that_nobody_expects, Dies, "did not expect all bytes") { check_boxes("boxes_nothing_expected_wrong"); }
TEST(boxes_of_which_too_little_is_expected, Dies, "did not expect all bytes") {
    check_boxes("boxes_too_little_expected_wrong");
}
TEST(boxes_of_which_too_much_is_expected, Dies, "0 arrivals and 16 bytes are missing") {
    check_boxes("boxes_too_much_expected_wrong");
}
TEST(boxes_at_a_barrier_where_too_many_arrive, Dies, "nothing but bytes is missing") {
    check_boxes("boxes_arrived_twice_wrong");
}
TEST(boxes_that_nobody_waits_for, Dies, "ends while a box is on its way to it") {
    check_boxes("boxes_not_waited_wrong", 64, 5, 1);
}
TEST(boxes_that_are_waited_for_by_another_parity, Fails) { check_boxes("boxes_other_parity_wrong"); }
TEST(boxes_for_a_barrier_that_is_not_handed_over, Dies, "for a barrier that was not handed over") {
    check_boxes("boxes_barrier_not_handed_over_wrong");
}
TEST(boxes_for_no_barrier, Dies, "was not initialized") { check_boxes("boxes_no_barrier_wrong"); }
TEST(boxes_over_what_threads_wrote, Dies, "copies a box over what a thread wrote") {
    check_boxes("boxes_writes_not_handed_over_wrong");
}
TEST(boxes_at_an_unaligned_address, Dies, "no multiple of 1024") { check_boxes("boxes_misaligned_wrong"); }
TEST(boxes_beyond_shared_memory, Dies, "a box beyond dynamic shared memory") { check_boxes("boxes_beyond_wrong"); }
TEST(boxes_to_one_place, Dies, "where another one is on its way") { check_boxes("boxes_to_one_place_wrong"); }

TEST(boxes_by_what_is_no_map, Dies, "no tensor map of the driver's") {
    Gpu gpu;
    gpu.launch("boxes", {1, 32, 5120}, gpu.room(4096), Maps{}, 0, 0, 1);
    gpu.synchronize();
}

TEST(boxes_of_freed_memory, Dies, "that were freed before", Plain) {
    Gpu gpu;
    CUdeviceptr matrix = gpu.put(matrix_of(0)), y = gpu.room(4096);
    CUtensorMap map = map_of(matrix, MATRIX_ROWS, MATRIX_COLUMNS, BOX_ROWS);
    gpu.synchronize();
    OK(cuMemFree(matrix));
    gpu.launch("boxes", {1, 32, 5120}, y, Maps{map, map}, 0, 0, 1);
    gpu.synchronize();
}

// ---- registers ----

void share_registers(const char* kernel) {
    Gpu gpu;
    CUdeviceptr y = gpu.room(384 * 4);
    gpu.launch(kernel, {1, 384, 0}, y);
    CHECK(gpu.get<float>(y, 384)[383] == 383.0f);
}

TEST(registers_that_others_gave, Passes) { share_registers("registers_shared"); }
TEST(registers_that_nobody_gave, Dies, "more registers than others gave") {
    share_registers("registers_too_many_wrong");
}
TEST(registers_that_can_not_be, Dies, "a number of registers that can't be") {
    share_registers("registers_of_no_number_wrong");
}

// ---- memory ----

struct Mixed {
    long long a;
    int b;
    float c;
    unsigned char d[12];
};

TEST(parameters_of_all_kinds, Passes) {
    Gpu gpu;
    CUdeviceptr y = gpu.room(8);
    Mixed values{1'000'000'000'000, -5, 0.25f, {}};
    values.d[11] = 200;
    gpu.launch("mixed", {1, 32, 0}, y, values, -7, 3'000'000'000u, 0.5f, -1LL);
    CHECK(gpu.get<double>(y, 1)[0] == 1e12 - 5 + 0.25 + 200 - 7 + 3e9 + 0.5 - 1);
}

void read_at(int at) {
    Gpu gpu;
    CUdeviceptr x = gpu.put(ramp(1024)), y = gpu.room(128);
    gpu.launch("read_at", {1, 32, 0}, y, x, at);
    CHECK(gpu.get<float>(y, 1)[0] == ramp(1024)[size_t(at)]);
}

TEST(a_read_within_bounds, Passes) { read_at(1023); }
TEST(a_read_behind_the_end, Dies, "behind the end of 4096 bytes", Plain) { read_at(1024); }
TEST(a_read_before_the_start, Dies, "before the start of 4096 bytes", Plain) { read_at(-1); }
TEST(a_read_where_nothing_is, Dies, "where there is no memory", Plain) { read_at(-(1 << 29)); }
TEST(a_read_out_of_bounds_is_reported, Dies, "AddressSanitizer", Sanitized) { read_at(1024); }

TEST(a_read_just_behind_the_end_is_reported, Dies, "AddressSanitizer", Sanitized) {
    Gpu gpu;
    CUdeviceptr x = gpu.put(ramp(10)), y = gpu.room(128);
    gpu.launch("read_at", {1, 32, 0}, y, x, 10);
    gpu.synchronize();
}

TEST(a_read_after_free, Dies, "that were freed before", Plain) {
    Gpu gpu;
    CUdeviceptr x = gpu.put(ramp(1024)), y = gpu.room(128);
    gpu.synchronize();
    OK(cuMemFree(x));
    gpu.launch("read_at", {1, 32, 0}, y, x, 0);
    gpu.synchronize();
}

void write_shared_at(int at) {
    Gpu gpu;
    CUdeviceptr y = gpu.room(128);
    gpu.launch("write_shared_at", {1, 32, 100}, y, at);
    gpu.synchronize();
}

TEST(a_write_to_shared_memory, Passes) { write_shared_at(24); }
TEST(a_write_behind_shared_memory, Dies, "behind its 100 bytes of dynamic shared memory", Plain) {
    write_shared_at(25);
}
TEST(a_write_behind_shared_memory_is_reported, Dies, "AddressSanitizer", Sanitized) { write_shared_at(25); }

void read_static_at(int at) {
    Gpu gpu;
    CUdeviceptr y = gpu.room(128);
    gpu.launch("read_static_at", {1, 32, 0}, y, at);
    gpu.synchronize();
}

TEST(a_read_of_static_shared_memory, Passes) { read_static_at(31); }
TEST(an_index_that_an_array_lacks, Dies, "out of bounds", Sanitized) { read_static_at(32); }

TEST(an_unaligned_read_is_reported, Dies, "misaligned address", Sanitized) {
    Gpu gpu;
    CUdeviceptr x = gpu.put(ramp(64)), y = gpu.room(128);
    gpu.launch("read_unaligned", {1, 32, 0}, y, x, 1);
    gpu.synchronize();
}

TEST(shared_memory_that_nobody_wrote, Passes) {
    Gpu gpu;
    CUdeviceptr y = gpu.room(128);
    gpu.launch("read_never_written", {1, 32, 128}, y);
    for (float value : gpu.get<float>(y, 32)) CHECK(std::isnan(value));
}

// Not even what the block before it left there.
TEST(static_shared_memory_that_nobody_wrote, Passes) {
    Gpu gpu;
    CUdeviceptr y = gpu.room(128 * 2);
    gpu.launch("read_static_never_written", {2, 32, 0}, y);
    for (float value : gpu.get<float>(y, 64)) CHECK(std::isnan(value));
}

TEST(a_deep_call, Passes) {
    Gpu gpu;
    CUdeviceptr y = gpu.room(128);
    gpu.launch("recurse", {1, 32, 0}, y, 15);
    gpu.synchronize();
}

TEST(a_stack_that_overflows, Dies, "overflows its stack", Plain) {
    Gpu gpu;
    CUdeviceptr y = gpu.room(128);
    gpu.launch("recurse", {1, 32, 0}, y, 10000);
    gpu.synchronize();
}

TEST(variants_for_all_formats, Passes) {
    Gpu gpu;
    const char* formats[] = {"f32",   "f16",   "bf16",  "q8_0",  "q4_0",     "q4_1",   "q5_0",   "q5_1",
                             "q2_k",  "q3_k",  "q4_k",  "q5_k",  "q6_k",     "iq4_nl", "iq4_xs", "mxfp4",
                             "tq1_0", "tq2_0", "wint8", "wint4", "wint4g32", "f8_e4m3"};
    CUdeviceptr y = gpu.room(8);
    for (int at = -1; at < int(std::size(formats)); at++) {
        for (const char* activations : {"f32", "bf16"}) {
            std::string name = std::string("which_") + (at < 0 ? "" : std::string(formats[at]) + "_") + activations;
            CUfunction function = gpu.load(name, entry_text<CUdeviceptr>(name));
            void* values[] = {&y};
            OK(cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, gpu.stream, values, nullptr));
            std::vector<int> told = gpu.get<int>(y, 2);
            CHECK(told[0] == at && told[1] == (strcmp(activations, "f32") ? 2 : 4));
        }
    }
}

}  // namespace
