/*
 * A stand-in for the CUDA driver: lets a machine without a GPU compile the kernels that a program would launch.
 *
 *   cc -shared -fPIC -O2 -I "$CUDA_PATH/include" -o DIR/libcuda.so.1 driver.c     # then LD_LIBRARY_PATH=DIR
 *
 * It claims one device of compute capability 9.0 with the limits of an H100. Kernels do nothing, and what is copied to the device is
 * forgotten: its memory is a range of addresses that nobody looks at. What is read back are ones, or a two where a program adds one and
 * one to see whether a device computes. In the directory that DRIVER_OUT names it leaves
 *
 *   0001.ptx …      each module as it was loaded, in that order
 *   launches.tsv    a line for each launch: module, kernel, cubes x y z, units x y z, bytes of dynamic shared memory
 *
 * It has the functions that cubecl-cuda calls, for one device and no graphs; cudarc looks each up when it is first called, and names
 * one that is missing.
 */
#include <cuda.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY ((size_t)80 << 30)
#define ALIGNMENT 512

struct CUevent_st {
    double ms;
};

struct CUmod_st {
    int number;
};

struct CUfunc_st {
    int module;
    char name[256];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int modules;
static FILE *launches;
/* Whether the kernel launched last is burn's sum. */
static int sum_is_last;
/*
 * The time of the device: each launch takes a millisecond, because CubeCL launches more and more until time has passed. Where it raises
 * the work of one launch instead, its measurement of throughput ends in a panic (InputScalar::new), which it logs and lives with.
 */
static double now_ms;

/* Context and streams have no state; a handle must only not be null. */
static void *handle(void) {
    static int any;
    return &any;
}

static FILE *out(const char *name) {
    const char *directory = getenv("DRIVER_OUT");
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory ? directory : ".", name);
    FILE *file = fopen(path, "w");
    if (!file) perror(path);
    return file;
}

/* The device. */

CUresult cuInit(unsigned flags) { return CUDA_SUCCESS; }

CUresult cuDriverGetVersion(int *version) {
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count) {
    *count = 1;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    *device = ordinal;
    return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
    snprintf(name, length, "stand-in, sm_90");
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char *id, int length, CUdevice device) {
    snprintf(id, length, "0000:00:00.0");
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device) {
    *bytes = MEMORY;
    return CUDA_SUCCESS;
}

/* The CUDA programming guide's table of compute capabilities. */
static int attribute(CUdevice_attribute which) {
    switch (which) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return 9;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return 0;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: return 32;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return 132;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: return 48 << 10;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: return 227 << 10;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: return 228 << 10;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: return 65536;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: return 2048;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X: return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: return 64;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: return INT32_MAX;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y: return 65535;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: return 65535;
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: return 1;
    default: return 0;
    }
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device) {
    *value = attribute(which);
    return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char **text) {
    *text = error == CUDA_SUCCESS ? "CUDA_SUCCESS" : "an error of the stand-in driver";
    return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char **text) { return cuGetErrorName(error, text); }

/* NVRTC asks here for the cache of the driver, and does without. */
CUresult cuGetExportTable(const void **table, const CUuuid *id) { return CUDA_ERROR_NOT_FOUND; }

/* Context, streams, events: all work is done when it is queued. */

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    *context = handle();
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device) { return CUDA_SUCCESS; }

CUresult cuCtxSetCurrent(CUcontext context) { return CUDA_SUCCESS; }

CUresult cuCtxGetCurrent(CUcontext *context) {
    *context = handle();
    return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize(void) { return CUDA_SUCCESS; }

CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    *least = *greatest = 0;
    return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
    *stream = handle();
    return CUDA_SUCCESS;
}

CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority) { return cuStreamCreate(stream, flags); }

CUresult cuStreamDestroy(CUstream stream) { return CUDA_SUCCESS; }

CUresult cuStreamSynchronize(CUstream stream) { return CUDA_SUCCESS; }

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags) { return CUDA_SUCCESS; }

CUresult cuEventCreate(CUevent *event, unsigned flags) {
    *event = calloc(1, sizeof **event);
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event) {
    free(event);
    return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
    event->ms = now_ms;
    return CUDA_SUCCESS;
}

CUresult cuEventSynchronize(CUevent event) { return CUDA_SUCCESS; }

CUresult cuEventQuery(CUevent event) { return CUDA_SUCCESS; }

CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    *milliseconds = end->ms - start->ms;
    return CUDA_SUCCESS;
}

/* Memory: addresses alone. */

CUresult cuMemAlloc(CUdeviceptr *pointer, size_t bytes) {
    static CUdeviceptr next = (CUdeviceptr)1 << 40;
    pthread_mutex_lock(&lock);
    *pointer = next;
    next += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

CUresult cuMemFree(CUdeviceptr pointer) { return CUDA_SUCCESS; }

CUresult cuMemAllocAsync(CUdeviceptr *pointer, size_t bytes, CUstream stream) { return cuMemAlloc(pointer, bytes); }

CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream stream) { return cuMemFree(pointer); }

CUresult cuMemAllocHost(void **pointer, size_t bytes) {
    return posix_memalign(pointer, 4096, bytes) ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

CUresult cuMemFreeHost(void *pointer) {
    free(pointer);
    return CUDA_SUCCESS;
}

CUresult cuMemGetInfo(size_t *available, size_t *total) {
    *available = *total = MEMORY;
    return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) { return CUDA_SUCCESS; }

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) { return CUDA_SUCCESS; }

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) { return CUDA_SUCCESS; }

/* As integers of 32 bits these are ids of every vocabulary and flags that are set, as floating-point numbers of any type finite. */
CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    static const uint32_t one = 1;
    memset(to, 0, bytes);
    for (size_t word = 0; word + sizeof one <= bytes; word += sizeof one) memcpy((char *)to + word, &one, sizeof one);
    if (bytes == sizeof(float) && sum_is_last) memcpy(to, &(float){2}, sizeof(float));
    return CUDA_SUCCESS;
}

CUresult cuMemcpy2DAsync(const CUDA_MEMCPY2D *copy, CUstream stream) {
    if (copy->dstMemoryType != CU_MEMORYTYPE_HOST) return CUDA_SUCCESS;
    for (size_t row = 0; row < copy->Height; row++) {
        char *to = (char *)copy->dstHost + (copy->dstY + row) * copy->dstPitch + copy->dstXInBytes;
        cuMemcpyDtoHAsync(to, copy->srcDevice, copy->WidthInBytes, stream);
    }
    return CUDA_SUCCESS;
}

/* Descriptors that no kernel will read. */

CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address, const cuuint64_t *sizes,
                                const cuuint64_t *strides, const cuuint32_t *box, const cuuint32_t *element_strides,
                                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                                CUtensorMapFloatOOBfill fill) {
    memset(map, 0, sizeof *map);
    return CUDA_SUCCESS;
}

CUresult cuTensorMapEncodeIm2col(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address, const cuuint64_t *sizes,
                                 const cuuint64_t *strides, const int *lower_corner, const int *upper_corner, cuuint32_t channels,
                                 cuuint32_t pixels, const cuuint32_t *element_strides, CUtensorMapInterleave interleave,
                                 CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
    memset(map, 0, sizeof *map);
    return CUDA_SUCCESS;
}

/* Modules and launches. */

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    const char *ptx = image;
    if (!strstr(ptx, ".version")) return CUDA_ERROR_INVALID_PTX;
    pthread_mutex_lock(&lock);
    int number = ++modules;
    pthread_mutex_unlock(&lock);
    char name[32];
    snprintf(name, sizeof name, "%04d.ptx", number);
    FILE *file = out(name);
    if (!file) return CUDA_ERROR_OPERATING_SYSTEM;
    fputs(ptx, file);
    fclose(file);
    *module = malloc(sizeof **module);
    (*module)->number = number;
    return CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule module) { return CUDA_SUCCESS; }

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    *function = malloc(sizeof **function);
    (*function)->module = module->number;
    snprintf((*function)->name, sizeof (*function)->name, "%s", name);
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute which, int value) {
    const int most = attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    const int shared = which == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    return shared && value > most ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned cubes_x, unsigned cubes_y, unsigned cubes_z, unsigned units_x, unsigned units_y,
                        unsigned units_z, unsigned shared, CUstream stream, void **arguments, void **extra) {
    pthread_mutex_lock(&lock);
    if (!launches) {
        launches = out("launches.tsv");
        if (launches) setvbuf(launches, NULL, _IOLBF, 0);
    }
    now_ms += 1;
    sum_is_last = strstr(function->name, "reduce_kernel") || strstr(function->name, "shared_sum_kernel");
    if (launches) {
        fprintf(launches, "%04d\t%s\t%u %u %u\t%u %u %u\t%u\n", function->module, function->name, cubes_x, cubes_y, cubes_z, units_x,
                units_y, units_z, shared);
    }
    pthread_mutex_unlock(&lock);
    return launches ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
}
