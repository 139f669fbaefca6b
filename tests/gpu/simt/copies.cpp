// cp.async as a GPU may at worst do it: nothing is copied before a wait demands it.
#include <cstdlib>
#include <cstring>

#include "memory.hpp"
#include "traffic.hpp"
#include "warpgroups.hpp"

namespace simt {

namespace {

constexpr int POISON = 0xff;  // NaN in every floating-point format

void keep(Fiber& fiber, const PendingCopy& copy) {
    if (fiber.copy_count == fiber.copy_capacity) {
        fiber.copy_capacity = fiber.copy_capacity ? fiber.copy_capacity * 2 : 16;
        size_t bytes = sizeof(PendingCopy) * size_t(fiber.copy_capacity);
        fiber.copies = static_cast<PendingCopy*>(realloc(static_cast<void*>(fiber.copies), bytes));
    }
    fiber.copies[fiber.copy_count++] = copy;
}

void complete(const PendingCopy& copy) {
    if (copy.valid) {
        memcpy(copy.to, copy.from, size_t(copy.bytes));
    } else {
        memset(copy.to, 0, size_t(copy.bytes));
    }
    note_unfenced(copy.to, size_t(copy.bytes));
}

}  // namespace

void copy_async(void* to, const void* from, int bytes, bool valid, Place place) {
    uintptr_t unaligned = reinterpret_cast<uintptr_t>(to) | (valid ? reinterpret_cast<uintptr_t>(from) : 0);
    if (unaligned % uintptr_t(bytes)) fail("copies asynchronously between addresses that are not aligned", place);
    if (COUNTS && valid) note_read(from, size_t(bytes));
    Fiber& fiber = self();
    memset(to, POISON, size_t(bytes));
    keep(fiber, {to, from, bytes, valid, fiber.copy_group, place});
}

void complete_copies(int groups_left, Place) {
    Fiber& fiber = self();
    int kept = 0;
    for (int at = 0; at < fiber.copy_count; at++) {
        const PendingCopy& copy = fiber.copies[at];
        if (copy.group < fiber.copy_group - groups_left) {
            complete(copy);
        } else {
            fiber.copies[kept++] = copy;
        }
    }
    fiber.copy_count = kept;
}

}  // namespace simt
