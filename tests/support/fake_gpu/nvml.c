/* The part of NVML that we call, for two GPUs that are not there. FAKE_GPU_CAPABILITY: "90".
   FAKE_GPU_SECOND: name of the second. FAKE_GPU_MEMORY_UNKNOWN: as a slice that does not tell. */
#include <stdio.h>
#include <stdlib.h>

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct {
  char legacy[16];
  unsigned int domain, bus, device, device_id, subsystem_id;
  char bus_id[32];
} pci_t;

static int numbers[2] = {0, 1};

int nvmlInit_v2(void) { return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned int length) {
  return snprintf(text, length, "580.65") < 0;
}
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
  if (index > 1) return 2;
  *device = &numbers[index];
  return 0;
}
int nvmlDeviceGetUUID(void *device, char *text, unsigned int length) {
  return snprintf(text, length, "GPU-fake-%d", *(int *)device) < 0;
}
/* 0000:17:00.0 and 0000:65:00.0. */
int nvmlDeviceGetPciInfo_v3(void *device, pci_t *pci) {
  pci->domain = 0;
  pci->bus = *(int *)device ? 0x65 : 0x17;
  pci->device = 0;
  return snprintf(pci->bus_id, 32, "00000000:%02X:00.0", pci->bus) < 0;
}
int nvmlDeviceGetName(void *device, char *text, unsigned int length) {
  const char *second = getenv("FAKE_GPU_SECOND");
  if (second && *(int *)device == 1) return snprintf(text, length, "%s", second) < 0;
  return snprintf(text, length, "Fake H200") < 0;
}
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
  (void)device;
  const char *setting = getenv("FAKE_GPU_CAPABILITY");
  int value = setting ? atoi(setting) : 90;
  *major = value / 10;
  *minor = value % 10;
  return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
  (void)device;
  if (getenv("FAKE_GPU_MEMORY_UNKNOWN")) return 3;
  memory->total = 16ull << 30;
  memory->used = 1ull << 30;
  memory->free = 15ull << 30;
  return 0;
}
int nvmlDeviceGetUtilizationRates(void *device, utilization_t *rates) {
  (void)device;
  rates->gpu = 25;
  rates->memory = 5;
  return 0;
}
/* As a MIG slice answers: not supported. */
int nvmlDeviceGetPowerUsage(void *device, unsigned int *milliwatts) {
  (void)milliwatts;
  if (*(int *)device == 1) return 3;
  *milliwatts = 70500;
  return 0;
}
