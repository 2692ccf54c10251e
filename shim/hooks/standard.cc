// A program, and std::cout and std::cin with it, keeps the pointer that stdout had before a
// connection came to 1. The functions such pointers are used with most go to the connection's
// stream; of what is left see boot/plain_streams.h.

#include "shim/boot/streams.h"
#include "shim/hooks/hook.h"

using namespace inlay::shim;

extern "C" {

size_t fwrite(const void *data, size_t size, size_t count, FILE *stream) {
  return bound().fwrite(data, size, count, boot::meant(stream));
}
size_t fread(void *data, size_t size, size_t count, FILE *stream) {
  return bound().fread(data, size, count, boot::meant(stream));
}
int putc(int c, FILE *stream) { return bound().putc(c, boot::meant(stream)); }
int fputc(int c, FILE *stream) { return bound().fputc(c, boot::meant(stream)); }
int fputs(const char *text, FILE *stream) { return bound().fputs(text, boot::meant(stream)); }
char *fgets(char *text, int size, FILE *stream) {
  return bound().fgets(text, size, boot::meant(stream));
}
int getc(FILE *stream) { return bound().getc(boot::meant(stream)); }
int fgetc(FILE *stream) { return bound().fgetc(boot::meant(stream)); }
int ungetc(int c, FILE *stream) { return bound().ungetc(c, boot::meant(stream)); }
int fflush(FILE *stream) { return bound().fflush(boot::meant(stream)); }
int vfprintf(FILE *stream, const char *format, va_list arguments) {
  return bound().vfprintf(boot::meant(stream), format, arguments);
}
int __vfprintf_chk(FILE *stream, int flag, const char *format, va_list arguments) {
  return bound().__vfprintf_chk(boot::meant(stream), flag, format, arguments);
}

int fprintf(FILE *stream, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int result = bound().vfprintf(boot::meant(stream), format, arguments);
  va_end(arguments);
  return result;
}

int __fprintf_chk(FILE *stream, int flag, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int result = bound().__vfprintf_chk(boot::meant(stream), flag, format, arguments);
  va_end(arguments);
  return result;
}

}  // extern "C"
