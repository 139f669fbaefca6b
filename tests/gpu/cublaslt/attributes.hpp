// Descriptors, as their attributes make them. What no attribute of ours stands for can't be set.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "library.hpp"

namespace stand_in {

// Of a matrix in memory.
struct Layout {
    uint32_t type;
    int32_t order = CUBLASLT_ORDER_COL;
    uint64_t rows, columns;
    int64_t stride;  // of columns, or of rows where it is row-major; elements
    int32_t batch = 1;
    int64_t batch_stride = 0;
};

// Of what is computed.
struct Computation {
    int32_t compute_type;
    int32_t scale_type;
    int32_t pointer_mode = CUBLASLT_POINTER_MODE_HOST;
    int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N, transpose_c = CUBLAS_OP_N;
    uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    const void* bias = nullptr;
    int64_t bias_batch_stride = 0;
    int32_t bias_type = -1;
};

// Of what an algorithm must be like.
struct Preference {
    uint64_t workspace_bytes_max = 0;
    uint32_t alignment[4] = {256, 256, 256, 256};  // of A, B, C and D, bytes
};

// An attribute's place, and its size; none if it is not modelled.
struct Place {
    void* at = nullptr;
    size_t bytes = 0;
};

Place place_of(Layout& layout, cublasLtMatrixLayoutAttribute_t attribute);
Place place_of(Computation& computation, cublasLtMatmulDescAttributes_t attribute);
Place place_of(Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute);

// The living objects of a kind, by the handles that callers have of them.
template <class Handle, class T>
class Living {
public:
    Handle add(T object) {
        auto held = std::make_shared<T>(object);
        auto handle = reinterpret_cast<Handle>(held.get());
        std::lock_guard lock(lock_);
        objects_[handle] = held;
        return handle;
    }
    bool remove(Handle handle) {
        std::lock_guard lock(lock_);
        return objects_.erase(handle) > 0;
    }
    // Null if it was destroyed, or never made.
    std::shared_ptr<T> find(Handle handle) {
        std::lock_guard lock(lock_);
        auto found = objects_.find(handle);
        return found == objects_.end() ? nullptr : found->second;
    }

private:
    std::mutex lock_;
    std::map<Handle, std::shared_ptr<T>> objects_;
};

}  // namespace stand_in
