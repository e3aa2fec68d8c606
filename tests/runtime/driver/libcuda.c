// A CUDA driver in software, for tests: libcuda.so.1 below the real cuda-bindings and the real pycuda.
//
// It has the entry points of NVIDIA's public header that the runtime calls, as the header documents them; every other
// one returns CUDA_ERROR_NOT_SUPPORTED (generated, see build.py). Memory is the host's, work on a stream runs at once, a
// kernel is looked up by its name among the functions of the cubin and runs from libraries of kernels that were compiled
// for the CPU (tests/runtime/gpu.py). Handles of another context, memory that is gone and calls without a context are
// refused. Set by the environment:
//
//     SOFTWARE_CUDA_VERSION      what cuDriverGetVersion says, such as 12060
//     SOFTWARE_CUDA_INTEGRATED   1: the GPU shares the host's memory
//     SOFTWARE_CUDA_KERNELS      the libraries of kernels, separated by ':'
//     SOFTWARE_CUDA_FAIL         call=code: the call fails with CUDA's error of that number
//
// `software_held` says what is held. NVIDIA's own runtime library (cudart) makes sure that it runs on NVIDIA's driver:
// it is not run on this one.
#include <cuda.h>
#include <dlfcn.h>
#include <elf.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICES 2
#define MOST 64  // contexts on a thread's stack, parameters of a kernel, functions of a module
#define TRY(call)                              \
    do {                                       \
        CUresult status_ = (call);             \
        if (status_ != CUDA_SUCCESS) return status_; \
    } while (0)
#define ENTER() TRY(enter(__func__, 0))          // a call that needs no context
#define IN_CONTEXT() TRY(enter(__func__, 1))     // one that needs a context
#define CHECK(condition, error) TRY((condition) ? CUDA_SUCCESS : (error))

static const struct {
    int code;
    const char *name, *words;
} ERRORS[] = {
#include "errors.inc"
};
static const struct {
    const char* name;
    int since;  // CUDA's version
    const char* symbol;
} ENTRIES[] = {
#include "entries.inc"
};

enum kind { CONTEXT, DEVICE_MEMORY, HOST_MEMORY, STREAM, EVENT, GRAPH, MODULE, KINDS };
static const char* const NAMES[] = {"contexts", "device", "host", "streams", "events", "graphs", "modules"};

// What is made and given back. It comes first in whatever CUDA's handles point to.
struct object {
    enum kind kind;
    CUcontext owner;
    struct object* next;
};
struct CUctx_st {
    struct object object;
    int device, alive;
};
struct memory {
    struct object object;
    char* address;
    size_t size;
};
// One piece of work: a kernel, or a copy.
struct work {
    struct work* next;
    void (*run)(const int*, int, void**);
    int grid[3], threads, parameters;
    void* values[MOST];
    void *target, *source;
    size_t size;
};
struct CUgraph_st {
    struct object object;
    struct work *first, *last;
};
struct CUgraphExec_st {
    struct CUgraph_st graph;
};
struct CUstream_st {
    struct object object;
    struct CUgraph_st* capture;
    int invalid;  // the capture
};
struct CUevent_st {
    struct object object;
};
struct CUfunc_st {
    CUmodule module;
    char name[MOST];
};
struct CUmod_st {
    struct object object;
    int count;
    struct CUfunc_st functions[MOST];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct object* objects;
static struct CUctx_st primary[DEVICES];
static int retained[DEVICES], initialised, lost;
static _Thread_local CUcontext stack[MOST];
static _Thread_local int depth;
static _Thread_local CUstream capturing;  // this thread's capture, in thread-local mode

static int setting(const char* name, int otherwise) {
    const char* text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static int version(void) { return setting("SOFTWARE_CUDA_VERSION", CUDA_VERSION); }

static CUcontext current(void) { return depth ? stack[depth - 1] : NULL; }

static CUresult enter(const char* call, int in_context) {
    const char* fail = getenv("SOFTWARE_CUDA_FAIL");
    const size_t length = strcspn(call, "_");  // without _v2
    if (lost) return lost;
    if (fail && !strncmp(fail, call, length) && fail[length] == '=') {
        const int code = atoi(fail + length + 1);
        if (code == CUDA_ERROR_ILLEGAL_ADDRESS) lost = code;
        return code;
    }
    if (!initialised && strcmp(call, "cuInit")) return CUDA_ERROR_NOT_INITIALIZED;
    if (!in_context) return CUDA_SUCCESS;
    CHECK(current(), CUDA_ERROR_INVALID_CONTEXT);
    return current()->alive ? CUDA_SUCCESS : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

// --- what is held

static void* own(enum kind kind, size_t size) {
    struct object* made = calloc(1, size);
    made->kind = kind, made->owner = current();
    pthread_mutex_lock(&lock);
    made->next = objects, objects = made;
    pthread_mutex_unlock(&lock);
    return made;
}

// Whether `handle` is one of `kind` of the current context.
static int is(void* handle, enum kind kind) {
    struct object* each = objects;
    while (each && each != handle) each = each->next;
    return each && each->kind == kind && each->owner == current();
}

static int is_stream(CUstream stream) { return stream == CU_STREAM_LEGACY || is(stream, STREAM); }

static void disown(void* handle) {
    pthread_mutex_lock(&lock);
    struct object** place = &objects;
    while (*place != handle) place = &(*place)->next;
    *place = (*place)->next;
    pthread_mutex_unlock(&lock);
    free(handle);
}

static CUresult give_back(void* handle, enum kind kind) {
    CHECK(is(handle, kind), CUDA_ERROR_INVALID_HANDLE);
    disown(handle);
    return CUDA_SUCCESS;
}

// The memory of `kind` that these bytes lie in.
static struct memory* find(const void* address, size_t size, enum kind kind) {
    for (struct object* each = objects; each; each = each->next) {
        struct memory* memory = (struct memory*)each;
        if (each->kind == kind && memory->address <= (char*)address &&
            (char*)address + size <= memory->address + memory->size)
            return memory;
    }
    return NULL;
}

// "contexts 1 device 2 ...": how many of each kind are held, the retained primary contexts among the contexts.
void software_held(char* text) {
    int counts[KINDS] = {0};
    for (struct object* each = objects; each; each = each->next) ++counts[each->kind];
    for (int device = 0; device < DEVICES; ++device) counts[CONTEXT] += retained[device];
    for (int kind = 0; kind < KINDS; ++kind)
        if (counts[kind]) text += sprintf(text, "%s %d ", NAMES[kind], counts[kind]);
    *text = 0;
}

// --- the driver, its errors and devices

CUresult cuInit(unsigned int flags) {
    initialised = !flags;
    return enter(__func__, 0);
}

CUresult cuDriverGetVersion(int* result) {
    *result = version();
    return CUDA_SUCCESS;
}

static CUresult describe(CUresult error, const char** name, const char** words) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; ++i)
        if (ERRORS[i].code == (int)error) {
            *name = ERRORS[i].name, *words = ERRORS[i].words;
            return CUDA_SUCCESS;
        }
    *name = *words = NULL;
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult error, const char** text) {
    const char* name;
    return describe(error, &name, text);
}

CUresult cuGetErrorName(CUresult error, const char** text) {
    const char* words;
    return describe(error, text, &words);
}

// The entry point `symbol` as CUDA `wanted` has it.
CUresult cuGetProcAddress(const char* symbol, void** function, int wanted, cuuint64_t flags,
                          CUdriverProcAddressQueryResult* status) {
    CUdriverProcAddressQueryResult result = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    *function = NULL;
    void* self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    CHECK(wanted <= version() && !(flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM), CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < sizeof ENTRIES / sizeof *ENTRIES; ++i) {  // the versions of a name in their order
        if (strcmp(ENTRIES[i].name, symbol)) continue;
        if (ENTRIES[i].since <= wanted)
            *function = dlsym(self, ENTRIES[i].symbol);
        else if (!*function)
            result = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
    }
    if (status) *status = *function ? CU_GET_PROC_ADDRESS_SUCCESS : result;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
    ENTER();
    *count = DEVICES;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    ENTER();
    CHECK(ordinal >= 0 && ordinal < DEVICES, CUDA_ERROR_INVALID_DEVICE);
    *device = ordinal;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
    ENTER();
    snprintf(name, length, "software %d", device);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
    ENTER();
    CHECK(device >= 0 && device < DEVICES, CUDA_ERROR_INVALID_DEVICE);
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 8; break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 7; break;
        case CU_DEVICE_ATTRIBUTE_INTEGRATED: *value = setting("SOFTWARE_CUDA_INTEGRATED", 0); break;
        default: return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

CUresult cuDeviceComputeCapability(int* major, int* minor, CUdevice device) {
    TRY(cuDeviceGetAttribute(major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device));
    return cuDeviceGetAttribute(minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
}

// --- contexts

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
    ENTER();
    CHECK(device >= 0 && device < DEVICES, CUDA_ERROR_INVALID_DEVICE);
    ++retained[device];
    primary[device].device = device, primary[device].alive = 1;
    *context = &primary[device];
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
    ENTER();
    CHECK(retained[device], CUDA_ERROR_INVALID_CONTEXT);
    primary[device].alive = --retained[device] > 0;
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext context) {
    ENTER();
    CHECK(context && context->alive, CUDA_ERROR_CONTEXT_IS_DESTROYED);
    stack[depth++] = context;
    return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent(CUcontext* context) {
    ENTER();
    CHECK(depth, CUDA_ERROR_INVALID_CONTEXT);
    --depth;
    if (context) *context = stack[depth];
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) {
    ENTER();
    depth -= depth > 0;
    return context ? cuCtxPushCurrent(context) : CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* context) {
    ENTER();
    *context = current();
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice* device) {
    IN_CONTEXT();
    *device = current()->device;
    return CUDA_SUCCESS;
}

CUresult cuCtxCreate(CUcontext* context, CUctxCreateParams* parameters, unsigned int flags, CUdevice device) {
    ENTER();
    (void)parameters, (void)flags;
    *context = own(CONTEXT, sizeof **context);
    (*context)->device = device, (*context)->alive = 1;
    return cuCtxPushCurrent(*context);
}

CUresult cuCtxDestroy(CUcontext context) {
    ENTER();
    CHECK(context->object.kind == CONTEXT && context->alive && !(context >= primary && context < primary + DEVICES),
          CUDA_ERROR_INVALID_CONTEXT);
    if (current() == context) --depth;
    disown(context);
    return CUDA_SUCCESS;
}

CUresult cuCtxDetach(CUcontext context) { return cuCtxDestroy(context); }

CUresult cuCtxSynchronize(void) {
    IN_CONTEXT();
    return CUDA_SUCCESS;
}

// --- memory

// In a capture of this thread nothing is allocated, given back or waited for: such a call ends it.
static CUresult outside_capture(void) {
    if (!capturing) return CUDA_SUCCESS;
    capturing->invalid = 1;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

static CUresult allocate(void** address, size_t size, enum kind kind) {
    TRY(outside_capture());
    CHECK(size, CUDA_ERROR_INVALID_VALUE);
    CHECK(size < (size_t)1 << 33, CUDA_ERROR_OUT_OF_MEMORY);
    struct memory* memory = own(kind, sizeof *memory);
    memory->size = size;
    memory->address = aligned_alloc(256, (size + 255) / 256 * 256);
    *address = memory->address;
    return CUDA_SUCCESS;
}

static CUresult release(void* address, enum kind kind) {
    TRY(outside_capture());
    struct memory* memory = find(address, 1, kind);
    CHECK(memory && memory->address == address, CUDA_ERROR_INVALID_VALUE);
    free(memory->address);
    disown(memory);
    return CUDA_SUCCESS;
}

CUresult cuMemGetInfo(size_t* available, size_t* total) {
    IN_CONTEXT();
    *available = *total = (size_t)1 << 33;
    for (struct object* each = objects; each; each = each->next)
        if (each->kind == DEVICE_MEMORY) *available -= ((struct memory*)each)->size;
    return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr* address, size_t size) {
    IN_CONTEXT();
    return allocate((void**)address, size, DEVICE_MEMORY);
}

CUresult cuMemFree(CUdeviceptr address) {
    IN_CONTEXT();
    return release((void*)address, DEVICE_MEMORY);
}

CUresult cuMemHostAlloc(void** address, size_t size, unsigned int flags) {
    IN_CONTEXT();
    CHECK(flags & CU_MEMHOSTALLOC_DEVICEMAP, CUDA_ERROR_NOT_SUPPORTED);
    return allocate(address, size, HOST_MEMORY);
}

CUresult cuMemFreeHost(void* address) {
    IN_CONTEXT();
    return release(address, HOST_MEMORY);
}

CUresult cuMemHostGetDevicePointer(CUdeviceptr* result, void* address, unsigned int flags) {
    IN_CONTEXT();
    CHECK(!flags && find(address, 1, HOST_MEMORY), CUDA_ERROR_INVALID_VALUE);
    *result = (CUdeviceptr)address;
    return CUDA_SUCCESS;
}

// --- work

static void do_work(struct work* work) {
    if (work->run)
        work->run(work->grid, work->threads, work->values);
    else
        memcpy(work->target, work->source, work->size);
}

static void forget(struct work* work) {
    for (int i = 0; i < work->parameters; ++i) free(work->values[i]);
    free(work);
}

// Do it now, or keep it for the graph that the stream captures.
static CUresult queue(struct work work, CUstream stream) {
    CHECK(is(stream, STREAM), CUDA_ERROR_INVALID_HANDLE);
    struct work* kept = memcpy(malloc(sizeof work), &work, sizeof work);
    struct CUgraph_st* graph = stream->capture;
    if (graph && graph->first)
        graph->last = graph->last->next = kept;
    else if (graph)
        graph->last = graph->first = kept;
    else {
        do_work(kept);
        forget(kept);
    }
    return CUDA_SUCCESS;
}

static CUresult copy(void* target, const void* source, size_t size, const void* on_device, CUstream stream) {
    CHECK(find(on_device, size, DEVICE_MEMORY) || find(on_device, size, HOST_MEMORY), CUDA_ERROR_INVALID_VALUE);
    return queue((struct work){.target = target, .source = (void*)source, .size = size}, stream);
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr target, const void* source, size_t size, CUstream stream) {
    IN_CONTEXT();
    return copy((void*)target, source, size, (void*)target, stream);
}

CUresult cuMemcpyDtoHAsync(void* target, CUdeviceptr source, size_t size, CUstream stream) {
    IN_CONTEXT();
    return copy(target, (void*)source, size, (void*)source, stream);
}

CUresult cuStreamCreate(CUstream* stream, unsigned int flags) {
    IN_CONTEXT();
    CHECK(!(flags & ~CU_STREAM_NON_BLOCKING), CUDA_ERROR_INVALID_VALUE);
    *stream = own(STREAM, sizeof **stream);
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream stream) {
    IN_CONTEXT();
    return give_back(stream, STREAM);
}

CUresult cuStreamSynchronize(CUstream stream) {
    IN_CONTEXT();
    TRY(outside_capture());
    return is(stream, STREAM) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuEventCreate(CUevent* event, unsigned int flags) {
    IN_CONTEXT();
    CHECK(!(flags & ~(CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING)), CUDA_ERROR_INVALID_VALUE);
    *event = own(EVENT, sizeof **event);
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event) {
    IN_CONTEXT();
    return give_back(event, EVENT);
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
    IN_CONTEXT();
    return is(event, EVENT) && is_stream(stream) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags) {
    IN_CONTEXT();
    CHECK(!flags, CUDA_ERROR_INVALID_VALUE);
    return is(event, EVENT) && is_stream(stream) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuEventSynchronize(CUevent event) {
    IN_CONTEXT();
    TRY(outside_capture());
    return is(event, EVENT) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

// --- graphs

CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
    IN_CONTEXT();
    CHECK(is(stream, STREAM), CUDA_ERROR_INVALID_HANDLE);
    CHECK(mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, CUDA_ERROR_NOT_SUPPORTED);
    CHECK(!stream->capture && !capturing, CUDA_ERROR_ILLEGAL_STATE);
    stream->capture = own(GRAPH, sizeof *stream->capture);
    stream->invalid = 0;
    capturing = stream;
    return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
    IN_CONTEXT();
    CHECK(is(stream, STREAM) && stream->capture, CUDA_ERROR_ILLEGAL_STATE);
    CHECK(capturing == stream, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    capturing = NULL;
    *graph = stream->capture;
    stream->capture = NULL;
    if (!stream->invalid) return CUDA_SUCCESS;
    cuGraphDestroy(*graph);
    *graph = NULL;
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
}

CUresult cuGraphDestroy(CUgraph graph) {
    ENTER();
    while (graph->first) {
        struct work* work = graph->first;
        graph->first = work->next;
        forget(work);
    }
    disown(graph);
    return CUDA_SUCCESS;
}

CUresult cuGraphInstantiate(CUgraphExec* result, CUgraph graph, unsigned long long flags) {
    IN_CONTEXT();
    CHECK(!flags && is(graph, GRAPH), CUDA_ERROR_INVALID_VALUE);
    *result = own(GRAPH, sizeof **result);
    struct work** last = &(*result)->graph.first;
    for (struct work* each = graph->first; each; each = each->next) {
        *last = memcpy(malloc(sizeof *each), each, sizeof *each);
        last = &(*last)->next;
        each->parameters = 0;  // the copy's now
    }
    return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec graph, CUstream stream) {
    IN_CONTEXT();
    CHECK(is(graph, GRAPH) && is(stream, STREAM), CUDA_ERROR_INVALID_HANDLE);
    for (struct work* each = graph->graph.first; each; each = each->next) do_work(each);
    return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec graph) { return cuGraphDestroy(&graph->graph); }

// --- kernels

// The functions of a cubin, an ELF file.
static CUresult read_functions(CUmodule module, const char* image) {
    const Elf64_Ehdr* head = (const Elf64_Ehdr*)image;
    CHECK(!memcmp(image, ELFMAG, SELFMAG) && head->e_machine == EM_CUDA, CUDA_ERROR_INVALID_IMAGE);
    const Elf64_Shdr* sections = (const Elf64_Shdr*)(image + head->e_shoff);
    for (int i = 0; i < head->e_shnum; ++i) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        const Elf64_Sym* symbols = (const Elf64_Sym*)(image + sections[i].sh_offset);
        const char* names = image + sections[sections[i].sh_link].sh_offset;
        for (size_t j = 0; j < sections[i].sh_size / sizeof *symbols; ++j) {
            if (ELF64_ST_TYPE(symbols[j].st_info) != STT_FUNC) continue;
            struct CUfunc_st* function = &module->functions[module->count++];
            function->module = module;
            snprintf(function->name, sizeof function->name, "%s", names + symbols[j].st_name);
        }
    }
    return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
    IN_CONTEXT();
    TRY(outside_capture());
    *module = own(MODULE, sizeof **module);
    const CUresult status = read_functions(*module, image);
    if (status != CUDA_SUCCESS) disown(*module);
    return status;
}

CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned int count, CUjit_option* options,
                            void** values) {
    IN_CONTEXT();
    (void)count, (void)options, (void)values;
    return cuModuleLoadData(module, image);
}

CUresult cuModuleUnload(CUmodule module) {
    IN_CONTEXT();
    return give_back(module, MODULE);
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    IN_CONTEXT();
    CHECK(is(module, MODULE), CUDA_ERROR_INVALID_HANDLE);
    for (int i = 0; i < module->count; ++i)
        if (!strcmp(module->functions[i].name, name)) {
            *function = &module->functions[i];
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_NOT_FOUND;
}

// Deprecated, and of no effect on cuLaunchKernel; pycuda still calls it.
CUresult cuFuncSetBlockShape(CUfunction function, int x, int y, int z) {
    IN_CONTEXT();
    return function && x > 0 && y > 0 && z > 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// `what`_`kernel` in the libraries of kernels for the CPU.
static void* on_the_cpu(const char* what, const char* kernel) {
    const char* libraries = getenv("SOFTWARE_CUDA_KERNELS");
    char *copied = strdup(libraries ? libraries : ""), *rest = copied, name[2 * MOST];
    void* found = NULL;
    snprintf(name, sizeof name, "%s_%s", what, kernel);
    for (char* path; !found && (path = strsep(&rest, ":"));) {
        void* library = *path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
        if (library) found = dlsym(library, name);
    }
    free(copied);
    return found;
}

// The parameters, each by its pointer or packed into one buffer.
static CUresult read_parameters(struct work* work, const char* kernel, void** each, void** extra) {
    int (*size_of)(int) = on_the_cpu("size", kernel), (*align_of)(int) = on_the_cpu("align", kernel);
    CHECK(size_of && align_of && !each == !!extra, CUDA_ERROR_INVALID_VALUE);
    const char* buffer = NULL;
    size_t length = 0, place = 0;
    for (void** pair = extra; pair && *pair != CU_LAUNCH_PARAM_END; pair += 2)
        if (*pair == CU_LAUNCH_PARAM_BUFFER_POINTER)
            buffer = pair[1];
        else if (*pair == CU_LAUNCH_PARAM_BUFFER_SIZE)
            length = *(size_t*)pair[1];
    for (int i = 0; size_of(i); ++i) {
        place = (place + align_of(i) - 1) / align_of(i) * align_of(i);
        CHECK(each || place + size_of(i) <= length, CUDA_ERROR_INVALID_VALUE);
        work->values[work->parameters++] =
            memcpy(malloc(size_of(i)), each ? each[i] : (void*)(buffer + place), size_of(i));
        place += size_of(i);
    }
    return each || place == length ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuLaunchKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z,
                        unsigned int block_x, unsigned int block_y, unsigned int block_z, unsigned int shared,
                        CUstream stream, void** parameters, void** extra) {
    IN_CONTEXT();
    CHECK(is(function->module, MODULE), CUDA_ERROR_INVALID_HANDLE);
    CHECK(block_y == 1 && block_z == 1 && !shared, CUDA_ERROR_NOT_SUPPORTED);
    CHECK(grid_x && grid_y && grid_z && grid_y <= 65535 && grid_z <= 65535, CUDA_ERROR_INVALID_VALUE);
    struct work work = {.grid = {grid_x, grid_y, grid_z}, .threads = block_x};
    work.run = on_the_cpu("run", function->name);
    CHECK(work.run, CUDA_ERROR_NOT_FOUND);
    TRY(read_parameters(&work, function->name, parameters, extra));
    return queue(work, stream);
}
