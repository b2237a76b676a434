// MSD-net evaluation on CPUs: the Python module `_msdnet`. One function, `evaluate`, which releases
// the GIL and starts as many threads as it is told to. The work itself is in msdnet_sweep.hpp.
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

enum Padding { ZEROS = 0, REFLECT = 1, SYMMETRIC = 2 };

// Which pixel of an axis every place of its margins shows, however often a short axis folds; NOTHING where it is zero.
struct Mirror {
    static constexpr int NOTHING = -1;
    std::vector<int> before, after;        // of the places -1 - k and n + k
    std::vector<int> first, places;        // the places that show pixel i: places[first[i]] .. places[first[i + 1] - 1]

    Mirror() = default;
    Mirror(int n, int margin, int padding_before, int padding_after) : before(margin), after(margin), first(n + 1) {
        for (int k = 0; k < margin; k++) {
            before[k] = shown(-1 - k, n, padding_before);
            after[k] = shown(n + k, n, padding_after);
        }
        for (const auto* side : {&before, &after})
            for (int i : *side) if (i != NOTHING) first[i + 1]++;
        for (int i = 0; i < n; i++) first[i + 1] += first[i];
        places.resize(first[n]);
        std::vector<int> at(first.begin(), first.end() - 1);
        for (int k = 0; k < margin; k++) {
            if (before[k] != NOTHING) places[at[before[k]]++] = -1 - k;
            if (after[k] != NOTHING) places[at[after[k]]++] = n + k;
        }
    }

    static int shown(int i, int n, int padding) {
        if (padding == ZEROS) return NOTHING;
        int period = padding == SYMMETRIC ? 2 * n : std::max(1, 2 * n - 2);
        int k = ((i % period) + period) % period;
        return k < n ? k : period - k - (padding == SYMMETRIC);
    }
};

struct Job {  // one evaluation; planes have a margin on every side for the padding
    int height, image_width, padded_width, in_channels, depth, width, out_channels, halo, margin;
    int padding[4];  // top, bottom, left, right
    long plane_stride, row_stride;
    const int* dilations;  // of each layer
    const float *weights, *biases, *final, *final_bias;
    std::vector<long> offsets;  // of each layer's kernels in `weights`
    Mirror rows, columns;
    float *planes, *out;
};

struct Window { int y0, y1, x0, x1; };

struct Buffer {  // aligned memory; throws std::bad_alloc
    float* p = nullptr;
    void reset(size_t floats) {
        free(p);
        if (posix_memalign((void**)&p, 4096, 4 * floats)) { p = nullptr; throw std::bad_alloc(); }
    }
    float* data() const { return p; }
    ~Buffer() { free(p); }
};

// Zeroed memory straight from the system, which clears a page when a thread first touches it: nothing is
// cleared twice, and the threads share the work. In huge pages where there are any: with small ones, faults
// were up to half of the time.
struct Pages {
    void* all = MAP_FAILED;
    size_t bytes = 0;
    explicit Pages(size_t floats) : bytes(4 * floats + HUGE) {
        all = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (all == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        madvise(all, bytes, MADV_HUGEPAGE);
#endif
    }
    Pages(const Pages&) = delete;
    float* data() const { return (float*)(((uintptr_t)all + HUGE - 1) / HUGE * HUGE); }
    ~Pages() { munmap(all, bytes); }
    static constexpr size_t HUGE = 2 << 20;
};

// The planes of one image. A thread keeps those of its last call for an image of the same kind: tiles come one
// after another, and to get and clear the memory anew took a fifth of the time at depth 50. Of the same kind,
// because the margins that hold zeros are never written.
struct Planes {
    static constexpr size_t KEPT = 1 << 28;  // most floats that a thread keeps: 1 GiB
    std::vector<int> kind;
    std::unique_ptr<Pages> pages;

    float* of(std::vector<int> wanted, size_t floats) {
        if (pages && wanted == kind) return pages->data();
        pages.reset();
        pages = std::make_unique<Pages>(floats);
        kind = wanted;
        return pages->data();
    }
    void done() { if (pages && pages->bytes > 4 * KEPT) pages.reset(); }
};
static thread_local Planes kept;

static inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

struct Shared {  // the schedule of the sweep, and how far every row of tiles has come
    int block, sub_block, blocks, tiles_y, tiles_x, ahead_y, ahead_x;
    long planes;
    std::vector<int> lag_y, lag_x;
    std::vector<std::atomic<int>> progress;
    std::atomic<int> next{0};

    Shared(const Job& j, int tile_h, int sweep_w, int vl)
        : block(std::max(1, 20 / j.width)), sub_block(std::max(1, 10 / j.width)),
          planes(j.in_channels + (long)j.depth * j.width), lag_y(j.depth), lag_x(j.depth) {
        blocks = (j.depth + block - 1) / block;
        int most_y = 0, most_x = 0;
        for (int i = 0; i < j.depth; i++) {
            int k = i % block, d = k ? j.dilations[i] : 0;
            if (k && k % sub_block == 0)  // this layer's window also gathers for all that follow in the block
                d = *std::max_element(j.dilations + i, j.dilations + std::min(j.depth, i - k + block));
            lag_y[i] = (k ? lag_y[i - 1] : 0) + d;
            lag_x[i] = (k ? lag_x[i - 1] : 0) + (d + vl - 1) / vl * vl;
            most_y = std::max(most_y, lag_y[i]);
            most_x = std::max(most_x, lag_x[i]);
        }
        tiles_y = (j.height + most_y + tile_h - 1) / tile_h;
        tiles_x = (j.padded_width + most_x + sweep_w - 1) / sweep_w;
        ahead_y = (most_y + j.halo + tile_h - 1) / tile_h;
        ahead_x = (most_x + j.margin + sweep_w - 1) / sweep_w;
        progress = std::vector<std::atomic<int>>((size_t)blocks * tiles_y);
        for (auto& p : progress) p = 0;
    }

    void wait(int b, int ty, int tx) {
        for (int spins = 0; progress[b * tiles_y + ty].load(std::memory_order_acquire) <= tx; spins++)
            if (spins < 2000) relax(); else std::this_thread::yield();
    }
};

static void fill_sides(const Job& j, float* row, int x0, int x1) {
    const int W = j.image_width, right = std::min(x1, W);
    for (int k = 0; k < j.margin; k++) {
        int x = j.columns.before[k];
        if (x >= x0 && x < right) row[-1 - k] = row[x];
    }
    if (x1 >= W)  // all of it: whole vectors have just run over the first of these columns
        for (int k = 0; k < j.margin; k++) {
            int x = j.columns.after[k];
            row[W + k] = x == Mirror::NOTHING ? 0.f : row[x];
        }
}

// Carries a window just computed into the margins that mirror it, and clears what the rounded-up width spilled
// over where they are zero.
static void fill_margins(const Job& j, float* plane, Window w) {
    const int right = std::min(w.x1, j.image_width);
    for (int y = w.y0; y < w.y1; y++) {
        float* row = plane + y * j.row_stride;
        const bool sides = w.x0 < j.margin || w.x1 >= j.image_width;
        if (sides) fill_sides(j, row, w.x0, w.x1);
        for (int i = j.rows.first[y]; i < j.rows.first[y + 1]; i++) {
            float* q = plane + j.rows.places[i] * j.row_stride;
            memcpy(q + w.x0, row + w.x0, 4 * (right - w.x0));
            if (sides) fill_sides(j, q, w.x0, w.x1);
        }
    }
}

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define SWEEP avx2
#define VL 8
#include "msdnet_sweep.hpp"
#undef SWEEP
#undef VL
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx2,fma,prefer-vector-width=512"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx2,fma,prefer-vector-width=512")
#endif
#define SWEEP avx512
#define VL 16
#include "msdnet_sweep.hpp"
#undef SWEEP
#undef VL
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
#define SWEEP generic
#define VL 4
#include "msdnet_sweep.hpp"
#endif

struct Isa { const char* name; int vl; void (*work)(const Job&, Shared&); float (*multiply_add)(long); bool (*there)(); };
static const Isa ISAS[] = {
#if defined(__x86_64__)
    {"avx512", 16, avx512::work, avx512::multiply_add, [] { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"); }},
    {"avx2", 8, avx2::work, avx2::multiply_add, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#else
    {"generic", 4, generic::work, generic::multiply_add, [] { return true; }},
#endif
};

static const Isa* find_isa(const char* wanted) {
    for (const Isa& isa : ISAS)
        if (isa.there() && (!*wanted || !strcmp(wanted, isa.name))) return &isa;
    return nullptr;
}

// Lays the planes out: margins on all sides, rows of whole vectors, strides that do not alias in the caches.
static size_t lay_out(Job& j, int vl) {
    int deepest = *std::max_element(j.dilations, j.dilations + j.depth);
    j.halo = deepest;
    j.margin = (deepest + 15) / 16 * 16;
    j.padded_width = (j.image_width + vl - 1) / vl * vl;
    j.row_stride = (j.padded_width + 15) / 16 * 16 + 2 * j.margin;
    j.row_stride += (j.row_stride / 16 % 2 == 0) * 16;  // an odd number of cache lines: rows apart do not alias
    j.plane_stride = (j.height + 2L * j.margin) * j.row_stride;
    j.plane_stride += (16 * 24 - j.plane_stride % 1024 + 1024) % 1024;
    j.rows = Mirror(j.height, j.margin, j.padding[0], j.padding[1]);
    j.columns = Mirror(j.image_width, j.margin, j.padding[2], j.padding[3]);
    j.offsets.resize(j.depth);
    long at = 0;
    for (int i = 0; i < j.depth; i++) { j.offsets[i] = at; at += 9 * j.width * (j.in_channels + (long)i * j.width); }
    return (j.in_channels + (size_t)j.depth * j.width) * j.plane_stride + 4096;
}

static void copy_in(const Job& j, const float* image) {
    for (int c = 0; c < j.in_channels; c++) {
        float* p = j.planes + c * j.plane_stride + j.margin * j.row_stride + j.margin;
        for (int y = 0; y < j.height; y++) memcpy(p + y * j.row_stride, image + ((long)c * j.height + y) * j.image_width, 4 * j.image_width);
        fill_margins(j, p, {0, j.height, 0, j.image_width});
    }
}

static bool run(Job& j, const float* image, const Isa& isa, int threads) {
    try {
        size_t floats = lay_out(j, isa.vl);
        j.planes = kept.of({j.height, j.image_width, j.in_channels, j.depth, j.width, j.margin, isa.vl,
                            j.padding[0], j.padding[1], j.padding[2], j.padding[3]}, floats);
        copy_in(j, image);
        Shared shared(j, 64, 256, isa.vl);
        std::atomic<bool> failed{false};
        auto body = [&] { try { isa.work(j, shared); } catch (const std::bad_alloc&) { failed = true; } };
        std::vector<std::thread> others;
        others.reserve(std::max(0, threads));
        try {
            for (int t = 1; t < std::min(threads, shared.tiles_y); t++) others.emplace_back(body);
        } catch (const std::system_error&) {  // no more threads to be had: those that run do all of the work
        } catch (const std::bad_alloc&) {}
        body();
        for (auto& t : others) t.join();
        kept.done();
        return !failed;
    } catch (const std::bad_alloc&) { kept.pages.reset(); return false; }
}

static PyObject* evaluate(PyObject*, PyObject* args) {
    Py_buffer image, weights, biases, final, final_bias, dilations, out;
    Job j = {};
    int threads;
    const char* wanted;
    if (!PyArg_ParseTuple(args, "y*y*y*y*y*y*w*iiiiii(iiii)is", &image, &weights, &biases, &final, &final_bias, &dilations, &out,
                          &j.height, &j.image_width, &j.in_channels, &j.depth, &j.width, &j.out_channels,
                          &j.padding[0], &j.padding[1], &j.padding[2], &j.padding[3], &threads, &wanted))
        return nullptr;
    const Isa* isa = find_isa(wanted);
    bool done = false;
    if (isa) {
        j.dilations = (const int*)dilations.buf;
        j.weights = (const float*)weights.buf;
        j.biases = (const float*)biases.buf;
        j.final = (const float*)final.buf;
        j.final_bias = (const float*)final_bias.buf;
        j.out = (float*)out.buf;
        Py_BEGIN_ALLOW_THREADS
        done = run(j, (const float*)image.buf, *isa, threads);
        Py_END_ALLOW_THREADS
    }
    for (Py_buffer* b : {&image, &weights, &biases, &final, &final_bias, &dilations, &out}) PyBuffer_Release(b);
    if (!isa) return PyErr_Format(PyExc_ValueError, "this processor cannot run %s", *wanted ? wanted : "the compiled kernel");
    if (!done) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject* instruction_sets(PyObject*, PyObject*) {
    PyObject* list = PyList_New(0);
    for (const Isa& isa : ISAS)
        if (isa.there()) { PyObject* s = PyUnicode_FromString(isa.name); PyList_Append(list, s); Py_DECREF(s); }
    return list;
}

static PyObject* multiply_adds(PyObject*, PyObject* args) {  // per second, on so many threads at once
    int threads;
    if (!PyArg_ParseTuple(args, "i", &threads)) return nullptr;
    const Isa* isa = find_isa("");
    if (!isa) return PyErr_Format(PyExc_ValueError, "this processor cannot run the compiled kernel");
    double seconds = 0, running = 0;
    const long times = 20000000;
    std::atomic<float> used{0};
    Py_BEGIN_ALLOW_THREADS
    auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> all;
    try {
        for (int t = 0; t < threads; t++) all.emplace_back([&] { used = isa->multiply_add(times); });
    } catch (const std::system_error&) {}  // counted below are those that run
    for (auto& t : all) t.join();
    running = all.size();
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    Py_END_ALLOW_THREADS
    return PyFloat_FromDouble(12.0 * isa->vl * times * running / seconds);
}

static PyObject* kept_bytes(PyObject*, PyObject*) { return PyLong_FromSize_t(kept.pages ? kept.pages->bytes : 0); }

static PyMethodDef METHODS[] = {
    {"evaluate", evaluate, METH_VARARGS, "Evaluate an MSD-net; see hrtem_dask.kernels.msdnet.compiled."},
    {"multiply_adds", multiply_adds, METH_VARARGS, "Fused multiply-adds of single floats a second on so many threads."},
    {"kept_bytes", kept_bytes, METH_NOARGS, "Memory of planes that this thread keeps for its next image."},
    {"instruction_sets", instruction_sets, METH_NOARGS, "Instruction sets that this processor can run, best first."},
    {nullptr, nullptr, 0, nullptr}};
static PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_msdnet", nullptr, -1, METHODS, nullptr, nullptr, nullptr, nullptr};
PyMODINIT_FUNC PyInit__msdnet(void) { return PyModule_Create(&MODULE); }
