// The library's calls. What it asks of its caller is checked here, and told on stderr where it is not given.
//
// STAND_IN_CUBLASLT=none: it knows no algorithm for anything, as for products that a GPU can't do.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <tuple>

#include "operands.hpp"
#include "report.hpp"

using namespace stand_in;

namespace stand_in {

cublasStatus_t refuse(cublasStatus_t status, const char* function, const char* format, ...) {
    char why[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    fprintf(stderr, "stand-in cublasLt: %s: %s (status %d)\n", function, why, int(status));
    return status;
}

}  // namespace stand_in

namespace {

// What a handle stands for.
struct Library {
    CUcontext context;
    std::mutex lock;
    // Which kernels were used outside of captures, and so are loaded.
    std::set<std::tuple<Algorithm::Kind, uint32_t, bool>> loaded;

    explicit Library(CUcontext context) : context(context) {}
    Library(const Library& other) : context(other.context) {}
};

Living<cublasLtHandle_t, Library> libraries;
Living<cublasLtMatrixLayout_t, Layout> layouts;
Living<cublasLtMatmulDesc_t, Computation> computations;
Living<cublasLtMatmulPreference_t, Preference> preferences;

bool knows_nothing() {
    const char* told = getenv("STAND_IN_CUBLASLT");
    return told && strcmp(told, "none") == 0;
}

std::shared_ptr<Library> library_of(cublasLtHandle_t handle, const char* function) {
    std::shared_ptr<Library> library = libraries.find(handle);
    if (!library) refuse(CUBLAS_STATUS_NOT_INITIALIZED, function, "the handle was destroyed, or never made");
    return library;
}

// ---- descriptors ----

template <class Living, class Handle, class Attribute>
cublasStatus_t set(Living& living, Handle handle, Attribute attribute, const void* from, size_t bytes,
                   const char* function) {
    stand_in_note_call(function);
    auto object = living.find(handle);
    if (!object) return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "the descriptor was destroyed, or never made");
    Place place = place_of(*object, attribute);
    if (!place.at) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, function, "attribute %d is not modelled", int(attribute));
    if (!from) return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "attribute %d is set from nowhere", int(attribute));
    if (bytes != place.bytes) {
        return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "attribute %d has %zu bytes, and not %zu", int(attribute),
                      place.bytes, bytes);
    }
    memcpy(place.at, from, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

template <class Living, class Handle, class Attribute>
cublasStatus_t get(Living& living, Handle handle, Attribute attribute, void* to, size_t bytes, size_t* written,
                   const char* function) {
    stand_in_note_call(function);
    auto object = living.find(handle);
    if (!object) return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "the descriptor was destroyed, or never made");
    Place place = place_of(*object, attribute);
    if (!place.at) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, function, "attribute %d is not modelled", int(attribute));
    if (bytes == 0 && !written) return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "nothing is asked");
    if (bytes != 0 && (!to || bytes != place.bytes))
        return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "attribute %d has %zu bytes", int(attribute), place.bytes);
    if (bytes != 0) memcpy(to, place.at, bytes);
    if (written) *written = place.bytes;
    return CUBLAS_STATUS_SUCCESS;
}

template <class Living, class Handle>
cublasStatus_t destroy(Living& living, Handle handle, const char* function) {
    stand_in_note_call(function);
    if (!handle) return CUBLAS_STATUS_SUCCESS;
    if (living.remove(handle)) return CUBLAS_STATUS_SUCCESS;
    return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "the descriptor was destroyed before, or never made");
}

// ---- products ----

// The problem that descriptors make up.
cublasStatus_t gather(Problem& problem, cublasLtMatmulDesc_t computation, const cublasLtMatrixLayout_t (&of)[4],
                      const char* function) {
    auto described = computations.find(computation);
    if (!described)
        return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "the operation's descriptor was destroyed, or never made");
    problem.computation = *described;
    Layout* to[4] = {&problem.a, &problem.b, &problem.c, &problem.d};
    for (int at = 0; at < 4; at++) {
        auto layout = layouts.find(of[at]);
        if (!layout) {
            return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "the layout of %c was destroyed, or never made",
                          "ABCD"[at]);
        }
        *to[at] = *layout;
    }
    std::string why;
    cublasStatus_t status = problem.check(why);
    return status ? refuse(status, function, "%s", why.c_str()) : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t take_scales(Operands& operands, const Computation& computation, const void* alpha, const void* beta,
                           const char* function) {
    if (!alpha || !beta) return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "alpha or beta is null");
    if (computation.pointer_mode == CUBLASLT_POINTER_MODE_HOST) {
        operands.alpha = *static_cast<const float*>(alpha);
        operands.beta = *static_cast<const float*>(beta);
        return CUBLAS_STATUS_SUCCESS;
    }
    if (!stand_in_is_device_memory(alpha, sizeof(float)) || !stand_in_is_device_memory(beta, sizeof(float)))
        return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "alpha or beta is not within memory of a device");
    operands.alpha_on_device = static_cast<const float*>(alpha);
    operands.beta_on_device = static_cast<const float*>(beta);
    return CUBLAS_STATUS_SUCCESS;
}

// A kernel is loaded when it is first used, which a capture may not allow.
cublasStatus_t check_loaded(Library& library, const Product& product, cudaStream_t stream, const char* function) {
    CUstreamCaptureStatus capture;
    if (cuStreamIsCapturing(stream, &capture) != CUDA_SUCCESS)
        return refuse(CUBLAS_STATUS_EXECUTION_FAILED, function, "the stream can't be used");
    std::lock_guard lock(library.lock);
    std::tuple used(product.kind, product.problem.d.type, product.problem.has_bias());
    if (capture == CU_STREAM_CAPTURE_STATUS_NONE) {
        library.loaded.insert(used);
    } else if (!library.loaded.count(used)) {
        stand_in_refuse_in_capture(function);
        return refuse(CUBLAS_STATUS_INTERNAL_ERROR, function,
                      "a kernel is used for the first time, and can't be loaded in a capture");
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t enqueue(const Product& product, cudaStream_t stream, const char* function) {
    auto run = [](void* data) { static_cast<const Product*>(data)->compute(); };
    auto release = [](void* data) { delete static_cast<Product*>(data); };
    CUresult result = stand_in_enqueue(stream, "a matrix product", run, new Product(product), release);
    return result == CUDA_SUCCESS ? CUBLAS_STATUS_SUCCESS
                                  : refuse(CUBLAS_STATUS_EXECUTION_FAILED, function, "it could not be enqueued");
}

}  // namespace

#define LIBRARY(library, handle)                                     \
    stand_in_note_call(__func__);                                    \
    std::shared_ptr<Library> library = library_of(handle, __func__); \
    if (!library) return CUBLAS_STATUS_NOT_INITIALIZED

#define TRY(call) \
    if (cublasStatus_t refused = call) return refused

extern "C" {

size_t cublasLtGetVersion() {
    stand_in_note_call(__func__);
    return CUBLAS_VERSION;
}

const char* cublasLtGetStatusName(cublasStatus_t status) {
    switch (status) {
        case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
        case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
        case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
        case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
        case CUBLAS_STATUS_INTERNAL_ERROR: return "CUBLAS_STATUS_INTERNAL_ERROR";
        case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
        default: return "another status";
    }
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
    stand_in_note_call(__func__);
    if (!handle) return REFUSE(INVALID_VALUE, "there is no room for the handle");
    if (stand_in_refuse_in_capture(__func__)) return CUBLAS_STATUS_INTERNAL_ERROR;
    CUcontext context = nullptr;
    if (cuCtxGetCurrent(&context) != CUDA_SUCCESS || !context) return REFUSE(NOT_INITIALIZED, "no GPU is current");
    *handle = libraries.add(Library(context));
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    LIBRARY(library, handle);
    cuCtxSynchronize();
    libraries.remove(handle);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t stride) {
    stand_in_note_call(__func__);
    Layout made{};
    made.type = type;
    made.rows = rows;
    made.columns = columns;
    made.stride = stride;
    *layout = layouts.add(made);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { return destroy(layouts, layout, __func__); }

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void* from,
                                                size_t bytes) {
    return set(layouts, layout, attribute, from, bytes, __func__);
}

cublasStatus_t cublasLtMatrixLayoutGetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, void* to, size_t bytes,
                                                size_t* written) {
    return get(layouts, layout, attribute, to, bytes, written, __func__);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* computation, cublasComputeType_t compute_type,
                                        cudaDataType_t scale_type) {
    stand_in_note_call(__func__);
    Computation made{};
    made.compute_type = compute_type;
    made.scale_type = scale_type;
    *computation = computations.add(made);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t computation) {
    return destroy(computations, computation, __func__);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t computation,
                                              cublasLtMatmulDescAttributes_t attribute, const void* from,
                                              size_t bytes) {
    return set(computations, computation, attribute, from, bytes, __func__);
}

cublasStatus_t cublasLtMatmulDescGetAttribute(cublasLtMatmulDesc_t computation,
                                              cublasLtMatmulDescAttributes_t attribute, void* to, size_t bytes,
                                              size_t* written) {
    return get(computations, computation, attribute, to, bytes, written, __func__);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
    stand_in_note_call(__func__);
    *preference = preferences.add({});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    return destroy(preferences, preference, __func__);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* from,
                                                    size_t bytes) {
    return set(preferences, preference, attribute, from, bytes, __func__);
}

cublasStatus_t cublasLtMatmulPreferenceGetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, void* to,
                                                    size_t bytes, size_t* written) {
    return get(preferences, preference, attribute, to, bytes, written, __func__);
}

// Of the real library, newer versions can't choose while a stream is captured.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t computation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int* found) {
    LIBRARY(library, handle);
    if (wanted <= 0 || !results || !found) return REFUSE(INVALID_VALUE, "there is no room for an algorithm");
    if (stand_in_refuse_in_capture(__func__)) return CUBLAS_STATUS_INTERNAL_ERROR;
    auto preferred = preferences.find(preference);
    if (!preferred) return REFUSE(INVALID_VALUE, "the preference was destroyed, or never made");
    for (uint32_t alignment : preferred->alignment) {
        if (!alignment || (alignment & (alignment - 1))) return REFUSE(INVALID_VALUE, "no alignment: %u", alignment);
    }
    Problem problem;
    TRY(gather(problem, computation, {a, b, c, d}, __func__));
    *found = 0;
    if (knows_nothing()) return CUBLAS_STATUS_NOT_SUPPORTED;
    for (Algorithm::Kind kind : {Algorithm::Split, Algorithm::Whole}) {
        Algorithm algorithm = Algorithm::of(kind, problem, *preferred);
        bool is_possible = kind == Algorithm::Whole || (problem.batch() == 1 && problem.inner() > 1);
        if (*found == wanted || !is_possible || algorithm.workspace_bytes > preferred->workspace_bytes_max) continue;
        cublasLtMatmulHeuristicResult_t& result = results[(*found)++];
        result = {};
        result.algo = algorithm.stored();
        result.workspaceSize = algorithm.workspace_bytes;
        result.state = CUBLAS_STATUS_SUCCESS;
        result.wavesCount = 1.0f;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t computation, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* chosen, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
    LIBRARY(library, handle);
    CUcontext context = nullptr;
    cuCtxGetCurrent(&context);
    if (context != library->context) return REFUSE(INVALID_VALUE, "the handle is of another GPU than the current one");
    Product product{};
    Problem& problem = product.problem;
    TRY(gather(problem, computation, {a_layout, b_layout, c_layout, d_layout}, __func__));
    if (!chosen) return REFUSE(NOT_SUPPORTED, "a choice of the library's own is not modelled");
    Algorithm algorithm;
    if (!Algorithm::from(*chosen, algorithm)) return REFUSE(INVALID_VALUE, "the algorithm is of no heuristic");
    if (algorithm.fingerprint != problem.fingerprint())
        return REFUSE(INVALID_VALUE, "the algorithm was chosen for another product");
    product.kind = algorithm.kind;
    product.operands.a = a;
    product.operands.b = b;
    product.operands.c = c;
    product.operands.d = d;
    product.operands.workspace = workspace;
    TRY(take_scales(product.operands, problem.computation, alpha, beta, __func__));
    TRY(check_matrix(problem.a, a, algorithm.alignment[0], 'A', __func__));
    TRY(check_matrix(problem.b, b, algorithm.alignment[1], 'B', __func__));
    TRY(check_matrix(problem.c, c, algorithm.alignment[2], 'C', __func__));
    TRY(check_matrix(problem.d, d, algorithm.alignment[3], 'D', __func__));
    TRY(check_bias(problem, __func__));
    TRY(check_workspace(algorithm, workspace, workspace_bytes, __func__));
    TRY(check_overlaps(product, workspace_bytes, __func__));
    TRY(check_loaded(*library, product, stream, __func__));
    return enqueue(product, stream, __func__);
}
}
