// MSD-net evaluation on CPUs: the Python module `_msdnet`. One function, `evaluate`, which releases
// the GIL and starts as many threads as it is told to. The work itself is in msdnet_sweep.hpp.
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

enum Padding { ZEROS = 0, REFLECT = 1, SYMMETRIC = 2 };

struct Job {  // one evaluation; planes have a margin on every side for the padding
    int height, image_width, padded_width, in_channels, depth, width, out_channels, padding, halo, margin;
    long plane_stride, row_stride;
    const int* dilations;  // of each layer
    const float *weights, *biases, *final, *final_bias;
    std::vector<long> offsets;  // of each layer's kernels in `weights`
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

// Pixel that position i of a mirrored line of n shows.
static int mirrored(int i, int n, int padding) {
    if (padding == REFLECT) {
        if (n == 1) return 0;
        int period = 2 * n - 2, k = ((i % period) + period) % period;
        return k < n ? k : period - k;
    }
    int k = ((i % (2 * n)) + 2 * n) % (2 * n);
    return k < n ? k : 2 * n - 1 - k;
}

// The margins that mirror the window just computed; with zeros, what the rounded-up width spilled over.
// Needs an image larger than the margin (smaller ones are left to the fallback).
static void fill_margins(const Job& j, float* plane, Window w) {
    const int H = j.height, W = j.image_width, M = j.margin;
    const int edge = j.padding == SYMMETRIC ? 1 : 0;  // a mirror that shows the edge pixel twice
    const int right = std::min(w.x1, W);
    if (j.padding == ZEROS) {
        if (w.x1 >= W)
            for (int y = w.y0; y < w.y1; y++) std::fill(plane + y * j.row_stride + W, plane + y * j.row_stride + W + M, 0.f);
        return;
    }
    for (int y = w.y0; y < w.y1; y++) {
        const int up = edge ? -1 - y : -y, down = edge ? 2 * H - 1 - y : 2 * (H - 1) - y;
        const int rows[3] = {y, up, down};
        const bool wanted[3] = {true, up < 0 && up >= -M, down >= H && down < H + M};
        for (int i = 0; i < 3; i++) {
            if (!wanted[i]) continue;
            float* q = plane + rows[i] * j.row_stride;
            if (i) memcpy(q + w.x0, plane + y * j.row_stride + w.x0, 4 * (right - w.x0));
            for (int x = std::max(1 - edge, w.x0); x <= std::min(M - edge, right - 1); x++) q[-x - edge] = q[x];
            if (w.x1 >= W)  // all of it: whole vectors have just run over the first of these columns
                for (int x = 0; x < M; x++) q[W + x] = q[W - 2 - x + edge];
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

struct Isa { const char* name; int vl; void (*work)(const Job&, Shared&); bool (*there)(); };
static const Isa ISAS[] = {
#if defined(__x86_64__)
    {"avx512", 16, avx512::work, [] { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"); }},
    {"avx2", 8, avx2::work, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#else
    {"generic", 4, generic::work, [] { return true; }},
#endif
};

static const Isa* find_isa(const char* wanted) {
    for (const Isa& isa : ISAS)
        if (isa.there() && (!*wanted || !strcmp(wanted, isa.name))) return &isa;
    return nullptr;
}

// Lays the planes out: margins on all sides, rows of whole vectors, strides that do not alias in the caches.
static void lay_out(Job& j, const float* image, Buffer& memory, int vl) {
    int deepest = *std::max_element(j.dilations, j.dilations + j.depth);
    j.halo = deepest;
    j.margin = (deepest + 15) / 16 * 16;
    j.padded_width = (j.image_width + vl - 1) / vl * vl;
    j.row_stride = (j.padded_width + 15) / 16 * 16 + 2 * j.margin + 64;
    j.row_stride += ((6 - j.row_stride / 16) % 64 + 64) % 64 * 16;
    long rows = j.height + 2 * j.margin + 64;
    j.plane_stride = rows * j.row_stride + 16 * 24;
    j.plane_stride += (16 * 24 - j.plane_stride % 1024 + 1024) % 1024;
    long planes = j.in_channels + (long)j.depth * j.width;
    memory.reset((size_t)planes * j.plane_stride + 4096);
    j.planes = memory.data();
    for (long c = 0; c < planes; c++) {  // zero what is read and never written: the margins
        float* p = j.planes + c * j.plane_stride;
        const long top = (long)j.margin * j.row_stride;
        memset(p, 0, 4 * top);
        memset(p + top + j.height * j.row_stride, 0, 4 * (j.plane_stride - top - j.height * j.row_stride));
        for (int y = 0; y < j.height; y++) {
            float* q = p + top + y * j.row_stride;
            memset(q, 0, 4 * j.margin);
            memset(q + j.margin + j.image_width, 0, 4 * (j.row_stride - j.margin - j.image_width));
        }
    }
    for (int c = 0; c < j.in_channels; c++) {
        float* p = j.planes + c * j.plane_stride + j.margin * j.row_stride + j.margin;
        for (int y = 0; y < j.height; y++) memcpy(p + y * j.row_stride, image + ((long)c * j.height + y) * j.image_width, 4 * j.image_width);
        fill_margins(j, p, {0, j.height, 0, j.image_width});
    }
    j.offsets.resize(j.depth);
    long at = 0;
    for (int i = 0; i < j.depth; i++) { j.offsets[i] = at; at += 9 * j.width * (j.in_channels + (long)i * j.width); }
}

static bool run(Job& j, const float* image, const Isa& isa, int threads) {
    try {
        Buffer memory;
        lay_out(j, image, memory, isa.vl);
        Shared shared(j, 64, 256, isa.vl);
        std::atomic<bool> failed{false};
        auto body = [&] { try { isa.work(j, shared); } catch (const std::bad_alloc&) { failed = true; } };
        std::vector<std::thread> others;
        try {
            for (int t = 1; t < std::min(threads, shared.tiles_y); t++) others.emplace_back(body);
        } catch (const std::system_error&) {}  // no more threads to be had: those that run do all of the work
        body();
        for (auto& t : others) t.join();
        return !failed;
    } catch (const std::bad_alloc&) { return false; }
}

static PyObject* evaluate(PyObject*, PyObject* args) {
    Py_buffer image, weights, biases, final, final_bias, dilations, out;
    Job j = {};
    int threads;
    const char* wanted;
    if (!PyArg_ParseTuple(args, "y*y*y*y*y*y*w*iiiiiiiis", &image, &weights, &biases, &final, &final_bias, &dilations, &out,
                          &j.height, &j.image_width, &j.in_channels, &j.depth, &j.width, &j.out_channels, &j.padding, &threads, &wanted))
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

static PyMethodDef METHODS[] = {
    {"evaluate", evaluate, METH_VARARGS, "Evaluate an MSD-net; see hrtem_dask.kernels.msdnet.compiled."},
    {"instruction_sets", instruction_sets, METH_NOARGS, "Instruction sets that this processor can run, best first."},
    {nullptr, nullptr, 0, nullptr}};
static PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_msdnet", nullptr, -1, METHODS, nullptr, nullptr, nullptr, nullptr};
PyMODINIT_FUNC PyInit__msdnet(void) { return PyModule_Create(&MODULE); }
