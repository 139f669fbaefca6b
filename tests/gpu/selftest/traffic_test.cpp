// Whether what kernels read and write is counted rightly.
#include "../cuda/report.hpp"
#include "cases.hpp"

using namespace selftest;

namespace {

simt::Traffic last(Gpu& gpu) {
    gpu.synchronize();
    return stand_in_last_traffic();
}

TEST(a_sector_counts_once_and_what_was_written_is_not_read, Passes, "", Counted) {
    Gpu gpu;
    CUdeviceptr x = gpu.put(std::vector<float>(100)), y = gpu.room(32 * 4);
    for (int launch = 0; launch < 2; launch++) {
        gpu.launch("read_twice", {}, y, x, 100);
        simt::Traffic traffic = last(gpu);
        CHECK(traffic.read_sectors == 13);  // 100 floats
        CHECK(traffic.written_sectors == 4);
        CHECK(traffic.asked_to_read == 32 * (2 * 100 * 4 + 4));
        CHECK(traffic.asked_to_write == 32 * 4);
        CHECK(traffic.peer_read == 0 && traffic.tensor_operations == 0);
    }
}

TEST(a_cache_keeps_what_was_touched_last, Passes, "", Counted) {
    setenv("STAND_IN_CACHE", "640", 1);  // 20 sectors
    Gpu gpu;
    CUdeviceptr x = gpu.put(std::vector<float>(100)), y = gpu.room(32 * 4), z = gpu.room(32 * 4);
    auto kept = [&](CUdeviceptr y) {
        gpu.launch("read_twice", {}, y, x, 100);
        return last(gpu).kept_sectors;
    };
    CHECK(kept(y) == 0);
    CHECK(kept(y) == 13 + 4);
    CHECK(kept(z) == 13);
    CHECK(kept(z) == 13 + 4);
    // Since y was touched, so were x and z: 17 sectors; x was touched for the last time before z.
    CHECK(kept(y) == 13);
}

TEST(each_block_has_to_fetch, Passes, "", Counted) {
    Gpu gpu;
    CUdeviceptr x = gpu.put(std::vector<float>(100)), y = gpu.room(32 * 4);
    gpu.launch("read_twice", {3, 32, 0}, y, x, 100);
    simt::Traffic traffic = last(gpu);
    CHECK(traffic.read_sectors == 13 && traffic.written_sectors == 4);
    CHECK(traffic.block_sectors == 3 * (13 + 4));
}

TEST(neighbours_across_a_border_are_two_sectors, Passes, "", Counted) {
    Gpu gpu;
    CUdeviceptr x = gpu.put(std::vector<float>(16)), y = gpu.room(4);
    gpu.launch("read_across", {}, y, x);
    CHECK(last(gpu).read_sectors == 2);
}

TEST(atomics_are_counted, Passes, "", Counted) {
    Gpu gpu;
    CUdeviceptr y = gpu.room(4);
    gpu.launch("count_up", {3, 32, 0}, y);
    simt::Traffic traffic = last(gpu);
    CHECK(traffic.written_sectors == 1 && traffic.asked_to_write == 3 * 32 * 4);
    CHECK(gpu.get<unsigned>(y, 1)[0] == 3 * 32);
}

TEST(asynchronous_copies_are_counted_where_they_are_valid, Passes, "", Counted) {
    Gpu gpu;
    CUdeviceptr x = gpu.put(std::vector<float>(128));
    gpu.launch("copy_only", {1, 32, 32 * 16}, x);
    simt::Traffic traffic = last(gpu);
    CHECK(traffic.read_sectors == 16 * 16 / 32 && traffic.asked_to_read == 16 * 16);
    CHECK(traffic.written_sectors == 0);
}

TEST(boxes_are_counted_where_the_matrix_is, Passes, "", Counted) {
    Gpu gpu;
    CUtensorMap map = map_of(gpu.put(std::vector<uint16_t>(20 * 64)), 20, 64, 16);
    gpu.launch("boxes", {1, 32, 5120}, gpu.room(4096), Maps{map, map}, 0, 10, 1);
    simt::Traffic traffic = last(gpu);
    CHECK(traffic.read_sectors == 10 * 128 / 32 && traffic.asked_to_read == 2 * 10 * 128);
}

TEST(products_are_counted, Passes, "", Counted) {
    Gpu gpu;
    gpu.launch("multiply_only", {5, 32, 0});
    CHECK(last(gpu).tensor_operations == 5 * 2 * 16 * 8 * 16);
}

TEST(another_devices_memory_is_counted_apart, Passes, "", Counted) {
    setenv("STAND_IN_GPUS", "2", 1);
    Gpu other(1);
    CUdeviceptr x = other.put(std::vector<float>(16));
    other.synchronize();
    Gpu gpu(0);
    CUdeviceptr y = gpu.room(4);
    gpu.launch("read_across", {}, y, x);
    simt::Traffic traffic = last(gpu);
    CHECK(traffic.read_sectors == 0 && traffic.asked_to_read == 0 && traffic.peer_read == 8);
    CHECK(traffic.written_sectors == 1 && traffic.peer_written == 0);
}

}  // namespace
