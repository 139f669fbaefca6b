// Matrices that kernels copy box by box. What of the driver's choice isn't modelled is refused.
#include <cstring>

#include "../simt/tensor_map.hpp"
#include "context.hpp"
#include "memory.hpp"
#include "settings.hpp"

using namespace stand_in;

namespace {

constexpr cuuint64_t SIZE_MAX_OF_TENSOR = cuuint64_t(1) << 32;
constexpr cuuint64_t STRIDE_END = cuuint64_t(1) << 40;
constexpr cuuint32_t BOX_MAX = 256;
constexpr int TENSOR_ALIGNMENT = 16;

// 0 where it isn't modelled.
uint32_t element_bytes(CUtensorMapDataType type) {
    switch (type) {
        case CU_TENSOR_MAP_DATA_TYPE_UINT8: return 1;
        case CU_TENSOR_MAP_DATA_TYPE_UINT16:
        case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
        case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16: return 2;
        case CU_TENSOR_MAP_DATA_TYPE_UINT32:
        case CU_TENSOR_MAP_DATA_TYPE_INT32:
        case CU_TENSOR_MAP_DATA_TYPE_FLOAT32: return 4;
        default: return 0;
    }
}

}  // namespace

extern "C" {

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* first,
                                const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
    CALL_IN_CONTEXT("%p, rank %u", first, rank);
    if (settings().capability_major < 9) return REFUSE(CUDA_ERROR_NOT_SUPPORTED, "this GPU copies no boxes");
    if (!map || reinterpret_cast<uintptr_t>(map) % simt::TENSOR_MAP_ALIGNMENT)
        return REFUSE(CUDA_ERROR_INVALID_VALUE, "the map at %p is not aligned to 64 bytes", (void*)map);
    if (rank < 1 || rank > 5) return REFUSE(CUDA_ERROR_INVALID_VALUE, "tensors have 1 to 5 dimensions, not %u", rank);
    if (!sizes || !strides || !box || !steps) return REFUSE(CUDA_ERROR_INVALID_VALUE, "sizes are missing");
    uint32_t bytes = element_bytes(type);
    if (!bytes) return REFUSE(CUDA_ERROR_NOT_SUPPORTED, "elements of type %d are not modelled", int(type));
    if (rank != 2) return REFUSE(CUDA_ERROR_NOT_SUPPORTED, "tensors of %u dimensions are not modelled", rank);
    if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE)
        return REFUSE(CUDA_ERROR_NOT_SUPPORTED, "interleaved tensors are not modelled");
    bool is_swizzled = swizzle == CU_TENSOR_MAP_SWIZZLE_128B;
    if (!is_swizzled && swizzle != CU_TENSOR_MAP_SWIZZLE_NONE)
        return REFUSE(CUDA_ERROR_NOT_SUPPORTED, "another swizzle than of 128 bytes is not modelled: %d", int(swizzle));
    if (fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
        return REFUSE(CUDA_ERROR_NOT_SUPPORTED, "what is out of bounds becomes zero here, and not a NaN");
    if (promotion < CU_TENSOR_MAP_L2_PROMOTION_NONE || promotion > CU_TENSOR_MAP_L2_PROMOTION_L2_256B)
        return REFUSE(CUDA_ERROR_INVALID_VALUE, "no such promotion: %d", int(promotion));
    auto address = reinterpret_cast<uintptr_t>(first);
    if (!first || address % TENSOR_ALIGNMENT)
        return REFUSE(CUDA_ERROR_INVALID_VALUE, "the tensor at %p is not aligned to 16 bytes", first);
    for (cuuint32_t at = 0; at < rank; at++) {
        if (!sizes[at] || sizes[at] > SIZE_MAX_OF_TENSOR)
            return REFUSE(CUDA_ERROR_INVALID_VALUE, "dimension %u has %llu elements", at, (unsigned long long)sizes[at]);
        if (!box[at] || box[at] > BOX_MAX)
            return REFUSE(CUDA_ERROR_INVALID_VALUE, "boxes have 1 to 256 elements, not %u", box[at]);
        if (steps[at] != 1) return REFUSE(CUDA_ERROR_NOT_SUPPORTED, "steps of %u are not modelled", steps[at]);
    }
    if (strides[0] % TENSOR_ALIGNMENT || strides[0] >= STRIDE_END || strides[0] < sizes[0] * bytes)
        return REFUSE(CUDA_ERROR_INVALID_VALUE, "rows can't be %llu bytes apart", (unsigned long long)strides[0]);
    if (box[0] * bytes % TENSOR_ALIGNMENT || (is_swizzled && box[0] * bytes > simt::SWIZZLED_ROW_BYTES))
        return REFUSE(CUDA_ERROR_INVALID_VALUE, "rows of boxes can't have %u bytes", box[0] * bytes);
    if (is_swizzled && box[0] * bytes != simt::SWIZZLED_ROW_BYTES)
        return REFUSE(CUDA_ERROR_NOT_SUPPORTED, "rows of boxes shorter than the swizzle are not modelled");
    if (!is_device_memory(address, (sizes[1] - 1) * strides[0] + sizes[0] * bytes, __func__))
        return REFUSE(CUDA_ERROR_INVALID_VALUE, "the tensor at %p is not within an allocation", first);
    simt::EncodedMatrix matrix{simt::EncodedMatrix::MARK, static_cast<const char*>(first), sizes[0], sizes[1],
                               strides[0], bytes, box[1], box[0] * bytes, is_swizzled};
    memset(map, 0, sizeof *map);
    memcpy(map, &matrix, sizeof matrix);
    return CUDA_SUCCESS;
}
}
