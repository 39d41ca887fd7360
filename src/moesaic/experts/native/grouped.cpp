// Grouped matrix products for mixtures of experts on CPUs: three primitives, of which forward and backward are made.
//
//   rows_from_tokens   rows[r]   = epilogue(tokens[token of r] . matrix[expert of r])
//   tokens_from_rows   tokens[t] = sum over the rows r of token t of rows[r] . matrix[expert of r]
//   weight_gradient    gradient[e] = sum over the rows r of expert e of left[r]^T right[r]
//
// A row is one token at one of its experts; rows stand in the order of experts, and of tokens within an expert. Every
// task writes what no other task writes, so results do not depend on which thread does what. The functions at the end of
// this file are called from Python through ctypes: no PyTorch header is needed to build it, and no version of PyTorch is
// built into it. Threads are PyTorch's own; Python hands over the address of its `torch_parallel_for`.

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

enum Type { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2 };
enum Epilogue { PLAIN = 0, SWIGLU = 1, SWIGLU_GRADIENT = 2 };

constexpr int64_t PANEL = 32;          // columns of a panel
constexpr int64_t FEW_ROWS = 8;        // up to here a weight is read once and not packed
constexpr int64_t ROWS_AT_ONCE = 112;  // rows that stay in the cache while a task goes through its panels
constexpr int64_t ROWS_OF_TASK = 256;
constexpr int64_t LEFT_OF_TASK = 128;  // rows of a weight gradient that one task makes
constexpr int64_t PANEL_BYTES = 256 << 10;
constexpr int64_t CACHE_BYTES = 32 << 20;  // more than this will not be found in a cache when it is read again
constexpr int64_t TASKS_PER_THREAD = 4;

inline int size_of(int type) { return type == FLOAT32 ? 4 : 2; }
inline int64_t words_of(int64_t length, bool pairs) { return pairs ? (length + 1) / 2 : length; }
// 16 words more than a whole number of cache lines, so that rows do not fall onto the same lines of the cache.
inline int64_t row_stride(int64_t words) { return (words + 15) / 16 * 16 + 16; }

inline int64_t panels_together(int64_t panel_words) {
    int64_t count = PANEL_BYTES / (panel_words * 4);
    return count < 1 ? 1 : count > 4 ? 4 : count;
}

// float32 to float16, round to nearest even, for processors that cannot convert.
inline uint16_t float16_bits(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return sign | 0x7e00;
    if (magnitude >= 0x477ff000) return sign | 0x7c00;
    if (magnitude < 0x38800000) {  // subnormal: let the addition round
        float scaled;
        __builtin_memcpy(&scaled, &magnitude, 4);
        scaled += 0.5f;
        uint32_t shifted;
        __builtin_memcpy(&shifted, &scaled, 4);
        return sign | (shifted - 0x3f000000);
    }
    return sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
}

// Rows of one type; `index` says where each is, if they are not one after the other.
struct Rows {
    const char* data;
    int type;
    int64_t stride;  // in elements
    const int32_t* index;
    const char* row(int64_t place) const { return data + (index ? index[place] : place) * stride * size_of(type); }
};

// One matrix for each expert, (column, length): `length` is the axis that is summed over.
struct Matrix {
    const char* start;
    int type;
    int64_t expert_stride, column_stride, sum_stride;  // in elements
    int64_t columns, length;
    const char* data(int64_t expert) const { return start + expert * expert_stride * size_of(type); }
};

struct RowsFromTokens {
    Rows tokens;
    Matrix matrix;
    bool pairs;  // multiply in bfloat16
    int epilogue;
    const int32_t* order;            // slot of each row
    const float* weights;            // routing weight of each slot
    int row_type;                    // of the next four
    char* rows_out;                  // PLAIN, SWIGLU: what stands before the gate; SWIGLU_GRADIENT: its gradient; or null
    int64_t row_stride;
    char* activations;               // (row, columns / 2) or null; times the routing weight
    int64_t activation_stride;
    const char* pre_activations;     // SWIGLU_GRADIENT: what SWIGLU wrote to rows_out
    float* weight_gradient_parts;    // (row, part) or null
    int64_t num_parts;
};

struct TokensFromRows {
    Rows rows;
    Matrix matrix;
    bool pairs;
    int64_t num_experts;
    const int32_t* token_of_row;
    const int64_t* offsets;
    int token_type;
    char* tokens_out;
    int64_t first_row_of_token(int64_t expert, int64_t token) const {
        int64_t low = offsets[expert], high = offsets[expert + 1];
        while (low < high) {
            int64_t middle = (low + high) / 2;
            if (token_of_row[middle] < token) low = middle + 1;
            else high = middle;
        }
        return low;
    }
};

struct WeightGradient {
    Rows left, right;
    int64_t num_left, num_right;
    bool pairs;
    const int64_t* offsets;
    int type;
    bool past_cache;         // there is more of it than a cache holds
    char* const* gradients;  // of each expert, (left, right); null where none is wanted
};

struct RowTask { int64_t expert, first_row, num_rows, first_panel, end_panel, part; };
struct TokenTask { int64_t first_panel, end_panel, first_token, end_token; };
struct GradientTask { int64_t expert, first_left, end_left; };

// Memory of one thread, kept from call to call: the first write to fresh pages costs many times the second.
class Arena {
public:
    template <typename T> T* take(int64_t count) {
        size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
        if (blocks_.empty() || used_ + bytes > blocks_.back().size) add(bytes);
        char* place = blocks_.back().data + used_;
        used_ += bytes;
        return reinterpret_cast<T*>(place);
    }
    void reset() {
        if (blocks_.size() > 1) {
            size_t total = 0;
            for (const Block& block : blocks_) total += block.size;
            release();
            add(total);
        }
        used_ = 0;
    }
    ~Arena() { release(); }

private:
    struct Block { char* data; size_t size; };
    void add(size_t bytes) {
        size_t size = (bytes > (1u << 20) ? bytes : 1u << 20);
        size = (size + 4095) / 4096 * 4096;
        char* data = static_cast<char*>(std::aligned_alloc(4096, size));
        if (!data) throw std::bad_alloc();
        blocks_.push_back({data, size});
        used_ = 0;
    }
    void release() {
        for (const Block& block : blocks_) std::free(block.data);
        blocks_.clear();
    }
    std::vector<Block> blocks_;
    size_t used_ = 0;
};

Arena& this_thread_arena() {
    thread_local Arena arena;
    return arena;
}

struct Kernels {
    void (*rows_from_tokens)(const RowsFromTokens&, const RowTask&);
    void (*tokens_from_rows)(const TokensFromRows&, const TokenTask&);
    void (*weight_gradient)(const WeightGradient&, const GradientTask&);
};

// clang-format off
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma,f16c")
namespace avx512_bf16 {
#define MOESAIC_MAX_ROWS 14
#define MOESAIC_HAS_AVX512
#define MOESAIC_HAS_BF16
#include "kernels.h"
#undef MOESAIC_HAS_BF16
}
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")
namespace avx512 {
#include "kernels.h"
#undef MOESAIC_HAS_AVX512
#undef MOESAIC_MAX_ROWS
}
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace avx2 {
#define MOESAIC_MAX_ROWS 3
#include "kernels.h"
}
#pragma GCC pop_options
#else
#define MOESAIC_MAX_ROWS 3
#endif
namespace portable {
#include "kernels.h"
}
// clang-format on

enum InstructionSet { PORTABLE = 0, AVX2 = 1, AVX512 = 2, AVX512_BF16 = 3 };

int best_instruction_set() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    __builtin_cpu_init();
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (avx512 && __builtin_cpu_supports("avx512bf16")) return AVX512_BF16;
    if (avx512) return AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return AVX2;
#endif
    return PORTABLE;
}

const Kernels* kernels_of(int instruction_set) {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    switch (instruction_set) {
        case AVX512_BF16: return &avx512_bf16::kernels;
        case AVX512: return &avx512::kernels;
        case AVX2: return &avx2::kernels;
    }
#endif
    return &portable::kernels;
}

int instruction_set = best_instruction_set();
const Kernels* kernels = kernels_of(instruction_set);

typedef void (*RangeFunction)(int64_t begin, int64_t end, void* context);
typedef int32_t (*ParallelFor)(int64_t begin, int64_t end, int64_t grain, RangeFunction function, void* context);
ParallelFor parallel_for = nullptr;
int64_t num_threads = 1;

// Run all tasks; each thread takes the next one when it is done with its last. No exception may pass through PyTorch's
// threads, so one for want of memory is remembered and thrown here.
template <typename Call, typename Task>
void run(void (*work)(const Call&, const Task&), const Call& call, const std::vector<Task>& tasks) {
    struct Context {
        void (*work)(const Call&, const Task&);
        const Call& call;
        const std::vector<Task>& tasks;
        std::atomic<size_t> next;
        std::atomic<bool> out_of_memory;
    } context{work, call, tasks, {0}, {false}};
    RangeFunction loop = [](int64_t begin, int64_t end, void* pointer) {
        if (begin == end) return;
        Context& context = *static_cast<Context*>(pointer);
        try {
            for (size_t task; (task = context.next.fetch_add(1)) < context.tasks.size();)
                context.work(context.call, context.tasks[task]);
        } catch (const std::bad_alloc&) {
            context.out_of_memory = true;
        }
    };
    int64_t workers = num_threads < (int64_t)tasks.size() ? num_threads : tasks.size();
    if (workers > 1 && parallel_for) parallel_for(0, workers, 1, loop, &context);
    loop(0, 1, &context);  // whatever is left; all of it without PyTorch's threads
    if (context.out_of_memory) throw std::bad_alloc();
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

// What Python fills in; the order of fields is that of native.py. Pointers are addresses of contiguous tensors.
struct Request {
    int64_t num_tokens, top_k, num_experts, num_rows;
    int64_t pairs, epilogue;
    const void* tokens;       // input of rows_from_tokens, output of tokens_from_rows: (token, width)
    int64_t token_type, token_width;
    const void* rows;         // the rows of the primitive: output or input, (row, width)
    int64_t row_type, row_width, row_stride;
    const void* matrix;
    int64_t matrix_type, expert_stride, column_stride, sum_stride, columns, length;
    const int32_t* order;     // slot of each row
    const int32_t* token_of_row;
    const int64_t* offsets;   // first row of each expert, and the number of rows
    const float* weights;     // routing weight of each slot
    void* activations;
    int64_t activation_stride;
    const void* pre_activations;
    float* weight_gradient;   // of each slot
    void* const* gradients;   // of each expert
    int64_t gradient_type, tokens_left;
};

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int64_t moesaic_instruction_set(int64_t wanted) {
    if (wanted >= 0 && wanted <= best_instruction_set()) instruction_set = (int)wanted;
    kernels = kernels_of(instruction_set);
    return instruction_set;
}

EXPORT void moesaic_set_threads(ParallelFor function, int64_t count) {
    parallel_for = function;
    num_threads = count < 1 ? 1 : count;
}

// Sort slots by expert, keeping their order within one; ids of `num_experts` and more are left out. Returns the number
// of rows, or -1 where an id is negative.
EXPORT int64_t moesaic_sort(const int64_t* expert_of_slot, int64_t num_slots, int64_t top_k, int64_t num_experts,
                            int32_t* order, int32_t* token_of_row, int64_t* offsets) {
    for (int64_t expert = 0; expert <= num_experts; ++expert) offsets[expert] = 0;
    for (int64_t slot = 0; slot < num_slots; ++slot) {
        if (expert_of_slot[slot] < 0) return -1;
        if (expert_of_slot[slot] < num_experts) ++offsets[expert_of_slot[slot] + 1];
    }
    for (int64_t expert = 0; expert < num_experts; ++expert) offsets[expert + 1] += offsets[expert];
    std::vector<int64_t> next(offsets, offsets + num_experts);
    for (int64_t slot = 0; slot < num_slots; ++slot) {
        int64_t expert = expert_of_slot[slot];
        if (expert >= num_experts) continue;
        int64_t row = next[expert]++;
        order[row] = (int32_t)slot;
        token_of_row[row] = (int32_t)(slot / top_k);
    }
    return offsets[num_experts];
}

static Matrix matrix_of(const Request& r) {
    return {(const char*)r.matrix, (int)r.matrix_type, r.expert_stride, r.column_stride, r.sum_stride, r.columns, r.length};
}

static void rows_from_tokens(const Request& r) {
    const int64_t panels = r.epilogue == SWIGLU ? divide_up(r.columns / 2, 16) : divide_up(r.columns, PANEL);
    int64_t blocks = 0;
    for (int64_t expert = 0; expert < r.num_experts; ++expert)
        blocks += divide_up(r.offsets[expert + 1] - r.offsets[expert], ROWS_OF_TASK);
    if (!blocks) return;
    int64_t parts = divide_up(TASKS_PER_THREAD * num_threads, blocks);
    if (parts > divide_up(panels, 4)) parts = divide_up(panels, 4);
    const int64_t panels_of_part = divide_up(panels, parts);
    parts = divide_up(panels, panels_of_part);
    std::vector<RowTask> tasks;
    for (int64_t expert = 0; expert < r.num_experts; ++expert) {
        const int64_t begin = r.offsets[expert], rows = r.offsets[expert + 1] - begin;
        const int64_t expert_blocks = divide_up(rows, ROWS_OF_TASK);
        for (int64_t block = 0; block < expert_blocks; ++block) {
            const int64_t first = rows * block / expert_blocks, end = rows * (block + 1) / expert_blocks;
            for (int64_t part = 0; part < parts; ++part) {
                const int64_t last = (part + 1) * panels_of_part;
                tasks.push_back({expert, begin + first, end - first, part * panels_of_part, last < panels ? last : panels,
                                 part});
            }
        }
    }
    std::vector<float> weight_gradient_parts(r.weight_gradient ? r.num_rows * parts : 0);
    RowsFromTokens call{{(const char*)r.tokens, (int)r.token_type, r.token_width, r.token_of_row},
                        matrix_of(r),
                        r.pairs != 0,
                        (int)r.epilogue,
                        r.order,
                        r.weights,
                        (int)r.row_type,
                        (char*)r.rows,
                        r.row_stride,
                        (char*)r.activations,
                        r.activation_stride,
                        (const char*)r.pre_activations,
                        r.weight_gradient ? weight_gradient_parts.data() : nullptr,
                        parts};
    run(kernels->rows_from_tokens, call, tasks);
    for (int64_t row = 0; r.weight_gradient && row < r.num_rows; ++row) {
        float sum = 0;
        for (int64_t part = 0; part < parts; ++part) sum += weight_gradient_parts[row * parts + part];
        r.weight_gradient[r.order[row]] = sum;
    }
}

static void tokens_from_rows(const Request& r) {
    const int64_t panels = divide_up(r.columns, PANEL);
    const int64_t enough = TASKS_PER_THREAD * num_threads;
    // Fewer tokens in a task mean that weights are packed more often, fewer columns that rows are read more often.
    int64_t width = panels_together(words_of(r.length, r.pairs) * PANEL);
    int64_t ranges = r.num_rows / (r.num_experts * ROWS_OF_TASK);
    if (ranges < 1) ranges = 1;
    if (ranges > divide_up(enough, divide_up(panels, width))) ranges = divide_up(enough, divide_up(panels, width));
    while (width > 1 && divide_up(panels, width) * ranges < enough) width /= 2;
    std::vector<TokenTask> tasks;
    for (int64_t range = 0; range < ranges; ++range)
        for (int64_t panel = 0; panel < panels; panel += width)
            tasks.push_back({panel, panel + width < panels ? panel + width : panels, r.num_tokens * range / ranges,
                             r.num_tokens * (range + 1) / ranges});
    TokensFromRows call{{(const char*)r.rows, (int)r.row_type, r.row_stride, nullptr},
                        matrix_of(r),
                        r.pairs != 0,
                        r.num_experts,
                        r.token_of_row,
                        r.offsets,
                        (int)r.token_type,
                        (char*)r.tokens};
    run(kernels->tokens_from_rows, call, tasks);
}

static void weight_gradient(const Request& r) {
    Rows tokens{(const char*)r.tokens, (int)r.token_type, r.token_width, r.token_of_row};
    Rows rows{(const char*)r.rows, (int)r.row_type, r.row_stride, nullptr};
    const bool tokens_left = r.tokens_left != 0;
    WeightGradient call{tokens_left ? tokens : rows,
                        tokens_left ? rows : tokens,
                        tokens_left ? r.token_width : r.row_width,
                        tokens_left ? r.row_width : r.token_width,
                        r.pairs != 0,
                        r.offsets,
                        (int)r.gradient_type,
                        false,
                        (char* const*)r.gradients};
    std::vector<GradientTask> tasks;
    int64_t num_gradients = 0;
    for (int64_t expert = 0; expert < r.num_experts; ++expert) {
        if (!r.gradients[expert]) continue;
        ++num_gradients;
        // The right operand is packed once a task, so tasks are large where it is small.
        const int64_t step = r.offsets[expert + 1] - r.offsets[expert] <= 512 ? 2 * LEFT_OF_TASK : LEFT_OF_TASK;
        for (int64_t first = 0; first < call.num_left; first += step)
            tasks.push_back({expert, first, first + step < call.num_left ? first + step : call.num_left});
    }
    call.past_cache = num_gradients * call.num_left * call.num_right * size_of(call.type) > CACHE_BYTES;
    run(kernels->weight_gradient, call, tasks);
}

// The primitives return 0, or 1 where there was not enough memory.
static int64_t attempt(void (*primitive)(const Request&), const Request* request) {
    try {
        primitive(*request);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

EXPORT int64_t moesaic_rows_from_tokens(const Request* request) { return attempt(rows_from_tokens, request); }
EXPORT int64_t moesaic_tokens_from_rows(const Request* request) { return attempt(tokens_from_rows, request); }
EXPORT int64_t moesaic_weight_gradient(const Request* request) { return attempt(weight_gradient, request); }
