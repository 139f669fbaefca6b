#include <cstring>

#include "../simt/narrow.hpp"
#include "collective.hpp"

namespace stand_in {

namespace {

template <class T>
struct Plain {
    T value;

    operator T() const { return value; }
    static Plain of(T value) { return {value}; }
};

template <class T>
T combined(T a, T b, ncclRedOp_t reduction) {
    switch (reduction) {
        case ncclProd: return a * b;
        case ncclMax: return a > b || a != a ? a : b;
        case ncclMin: return a < b || a != a ? a : b;
        default: return a + b;
    }
}

// `Element` is as stored, `Number` what is calculated with.
template <class Element, class Number>
void reduce_as(void* to, const std::vector<const void*>& from, size_t count, ncclRedOp_t reduction) {
    auto* sums = static_cast<Element*>(to);
    Number ranks = Number(from.size());
    for (size_t at = 0; at < count; at++) {
        auto element = [&](const void* of) {
            Element stored;
            memcpy(&stored, static_cast<const char*>(of) + at * sizeof(Element), sizeof stored);
            // An average is a sum of parts, as the real library takes it.
            bool is_share = reduction == ncclAvg && std::is_floating_point_v<Number>;
            return is_share ? Number(Element::of(Number(Number(stored) / ranks))) : Number(stored);
        };
        Number sum = element(from[0]);
        for (size_t rank = 1; rank < from.size(); rank++) {
            sum = Number(Element::of(combined(sum, element(from[rank]), reduction)));
        }
        if (reduction == ncclAvg && !std::is_floating_point_v<Number>) sum = Number(sum / ranks);
        Element result = Element::of(sum);
        memcpy(sums + at, &result, sizeof result);
    }
}

}  // namespace

bool can_reduce(ncclDataType_t type, ncclRedOp_t reduction) {
    return type >= 0 && type <= ncclBfloat16 && reduction >= 0 && reduction < ncclNumOps;
}

void reduce(void* to, const std::vector<const void*>& from, size_t count, ncclDataType_t type, ncclRedOp_t reduction) {
    switch (type) {
        case ncclInt8: return reduce_as<Plain<int8_t>, int8_t>(to, from, count, reduction);
        case ncclUint8: return reduce_as<Plain<uint8_t>, uint8_t>(to, from, count, reduction);
        case ncclInt32: return reduce_as<Plain<int32_t>, int32_t>(to, from, count, reduction);
        case ncclUint32: return reduce_as<Plain<uint32_t>, uint32_t>(to, from, count, reduction);
        case ncclInt64: return reduce_as<Plain<int64_t>, int64_t>(to, from, count, reduction);
        case ncclUint64: return reduce_as<Plain<uint64_t>, uint64_t>(to, from, count, reduction);
        case ncclFloat16: return reduce_as<F16, float>(to, from, count, reduction);
        case ncclFloat32: return reduce_as<Plain<float>, float>(to, from, count, reduction);
        case ncclFloat64: return reduce_as<Plain<double>, double>(to, from, count, reduction);
        case ncclBfloat16: return reduce_as<Bf16, float>(to, from, count, reduction);
        default: return;  // refused before
    }
}

}  // namespace stand_in
