// A dynamic executable that carries the note of Go's linker, as a Go program that uses cgo does.
#include <cstdio>

asm(R"(
  .pushsection .note.go.buildid, "a", @note
  .balign 4
  .long 4, 4, 4
  .asciz "Go\0"
  .ascii "test"
  .popsection
)");

int main() { std::puts("static ran"); }
