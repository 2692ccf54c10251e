#include <cstdio>

int main() { std::puts("static ran"); }
