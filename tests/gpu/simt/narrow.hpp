// Numbers of two bytes as memory has them, for the driver's companions.
#pragma once

#include "arithmetic.hpp"

namespace stand_in {

struct Bf16 {
    uint16_t bits;

    operator float() const { return simt::same_bits<float>(uint32_t(bits) << 16); }
    static Bf16 of(float value) {
        uint32_t wide = simt::same_bits<uint32_t>(value);
        if ((wide & 0x7fffffff) > 0x7f800000) return {0x7fff};
        return {uint16_t((wide + 0x7fff + (wide >> 16 & 1)) >> 16)};
    }
};

struct F16 {
    uint16_t bits;

    operator float() const { return half_to_float(bits); }
    static F16 of(float value) { return {float_to_half(value)}; }
};

}  // namespace stand_in
