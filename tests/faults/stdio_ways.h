// What the ways of stdio_ways.cc and kept_streams.cc share.
#pragma once

#include <cstdio>
#include <span>
#include <string>

namespace ways {

struct Way {
  const char *name;
  void (*go)();
};
// A stream pointer, or the number of one, from before the connection.
std::span<const Way> kept_streams();

extern std::string g_canary;
inline const char *canary() { return g_canary.c_str(); }

// A protected connection; what the other end says first; and one where that has been heard.
int dial();
void hear_greeting(int fd);
int established();
// The same at this number.
int on(int number);

inline void write_and_flush(FILE *stream) {
  std::fputs(canary(), stream);
  std::fflush(stream);
}

}  // namespace ways
