// A stand-in for NVRTC, for tests without a GPU: the compiler of C makes a shared object of the text of kernels and
// shim.h, which standin.c runs. It takes text that begins with src/device/cuda/kernel.cuh.
#define _GNU_SOURCE
#include "standin.h"
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { INVALID_INPUT = 3, INVALID_OPTION = 5, COMPILATION = 6, INTERNAL_ERROR = 11 };

extern char **environ;

typedef struct {
  char *source, *log, *cubin;
  size_t log_size, cubin_size;
} program;

static char *contents(const char *path, size_t *size) {
  FILE *const file = fopen(path, "rb");
  if (file == NULL)
    return NULL;
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  rewind(file);
  char *const bytes = calloc(*size + 1, 1);
  const size_t read = fread(bytes, 1, *size, file);
  fclose(file);
  if (read == *size)
    return bytes;
  free(bytes);
  return NULL;
}

int nvrtcVersion(int *major, int *minor) {
  *major = 13;
  *minor = 0;
  return standin_fails("nvrtcVersion");
}

int nvrtcGetNumSupportedArchs(int *count) {
  *count = 2;
  return standin_fails("nvrtcGetNumSupportedArchs");
}

int nvrtcGetSupportedArchs(int *all) {
  all[0] = 90;
  all[1] = 99;
  return standin_fails("nvrtcGetSupportedArchs");
}

int nvrtcCreateProgram(program **made, const char *source, const char *name, int headers, const char *const *texts,
                       const char *const *names) {
  const int code = standin_fails("nvrtcCreateProgram");
  if (code != 0)
    return code;
  if (name == NULL || headers != 0 || texts != NULL || names != NULL)
    return INVALID_INPUT;
  *made = calloc(1, sizeof **made);
  (*made)->source = strdup(source);
  return 0;
}

int nvrtcDestroyProgram(program **made) {
  const int code = standin_fails("nvrtcDestroyProgram");
  free((*made)->source);
  free((*made)->log);
  free((*made)->cubin);
  free(*made);
  *made = NULL;
  return code;
}

static int compile(program *p, const char *folder) {
  char source[512], object[512], log[512];
  snprintf(source, sizeof source, "%s/kernels.c", folder);
  snprintf(object, sizeof object, "%s/kernels.so", folder);
  snprintf(log, sizeof log, "%s/log", folder);
  FILE *const file = fopen(source, "w");
  if (file == NULL)
    return INTERNAL_ERROR;
  fprintf(file, "#include \"%s\"\n%s\nconst int %s = 0;\n", STANDIN_SHIM, p->source, STANDIN_TEXT(STANDIN_STAMP));
  fclose(file);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 2, log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  char *const words[] = {STANDIN_CC, "-std=gnu11",        "-O1", "-march=native", "-fPIC", "-shared", "-w",
                         "-fwrapv",  "-ffp-contract=off", "-o",  object,          source,  "-lm",     NULL};
  pid_t child;
  int status = -1;
  if (posix_spawnp(&child, words[0], &actions, NULL, words, environ) == 0)
    waitpid(child, &status, 0);
  posix_spawn_file_actions_destroy(&actions);
  p->log = contents(log, &p->log_size);
  p->cubin = status == 0 ? contents(object, &p->cubin_size) : NULL;
  unlink(source);
  unlink(object);
  unlink(log);
  return p->cubin == NULL ? COMPILATION : 0;
}

int nvrtcCompileProgram(program *p, int count, const char *const *options) {
  const int code = standin_fails("nvrtcCompileProgram");
  if (code != 0)
    return code;
  int exact = 0, arch = 0;
  for (int i = 0; i < count; i++) {
    exact += strcmp(options[i], "--fmad=false") == 0 || strcmp(options[i], "--ftz=false") == 0;
    arch += strcmp(options[i], "--gpu-architecture=sm_99") == 0 || strcmp(options[i], "--gpu-architecture=sm_90") == 0;
  }
  if (exact != 2 || arch != 1)
    return INVALID_OPTION;
  const char *const temporary = getenv("TMPDIR");
  char folder[256];
  snprintf(folder, sizeof folder, "%s/standin-XXXXXX", temporary != NULL ? temporary : "/tmp");
  if (mkdtemp(folder) == NULL)
    return INTERNAL_ERROR;
  const int result = compile(p, folder);
  rmdir(folder);
  return result;
}

int nvrtcGetProgramLogSize(const program *p, size_t *size) {
  *size = p->log_size + 1;
  return standin_fails("nvrtcGetProgramLogSize");
}

int nvrtcGetProgramLog(const program *p, char *log) {
  strcpy(log, p->log == NULL ? "" : p->log);
  return standin_fails("nvrtcGetProgramLog");
}

int nvrtcGetCUBINSize(const program *p, size_t *size) {
  *size = p->cubin_size;
  return standin_fails("nvrtcGetCUBINSize");
}

int nvrtcGetCUBIN(const program *p, char *cubin) {
  memcpy(cubin, p->cubin, p->cubin_size);
  return standin_fails("nvrtcGetCUBIN");
}
