// One kind of product: what is computed, and of which matrices.
#pragma once

#include <string>

#include "attributes.hpp"

namespace stand_in {

// Bytes of an element; 0 if the type is not modelled.
size_t bytes_of(uint32_t type);

// D = alpha · op(A) · op(B) + beta · C
struct Problem {
    Computation computation;
    Layout a, b, c, d;

    uint64_t rows() const { return d.rows; }
    uint64_t columns() const { return d.columns; }
    uint64_t inner() const { return computation.transpose_a == CUBLAS_OP_N ? a.columns : a.rows; }
    int32_t batch() const { return d.batch; }
    bool has_bias() const { return computation.epilogue == CUBLASLT_EPILOGUE_BIAS; }

    // What the library answers to it; `why` says what is wrong.
    cublasStatus_t check(std::string& why) const;

    // A sum over all that algorithms are chosen by.
    uint64_t fingerprint() const;
};

// From a matrix's first byte to its last, in all of its batch.
size_t extent(const Layout& layout);

// What a problem is computed by. It travels through the caller's memory.
struct Algorithm {
    enum Kind : uint64_t {
        Whole = 1,  // each sum at once
        Split,      // sums over half of the inner columns wait in the workspace for the other half's
    };

    uint64_t mark;
    Kind kind;
    uint64_t fingerprint;
    uint64_t workspace_bytes;
    uint32_t alignment[4];

    static Algorithm of(Kind kind, const Problem& problem, const Preference& preference);
    // What is kept in the vendor's structure; false if it was not made by the stand-in.
    static bool from(const cublasLtMatmulAlgo_t& stored, Algorithm& algorithm);
    cublasLtMatmulAlgo_t stored() const;
};

// Where everything lies.
struct Operands {
    const void *a, *b, *c;
    void* d;
    void* workspace;
    float alpha, beta;
    const float *alpha_on_device, *beta_on_device;  // or null
};

// Everything of a call, kept until the stream comes to it.
struct Product {
    Problem problem;
    Operands operands;
    Algorithm::Kind kind;

    void compute() const;
};

}  // namespace stand_in
