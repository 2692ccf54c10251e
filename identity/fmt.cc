// fmt's own code, once. Debian ships it as a shared library, which libinlay.so may not need, and as
// headers; with all of it in every file that formats a word, those files took most of the build's
// time. This is what fmt's src/format.cc holds, for char alone, and without long double, which
// would need libm's ceil().
#define FMT_USE_LONG_DOUBLE 0
#include <fmt/format-inl.h>

FMT_BEGIN_NAMESPACE
namespace detail {

template auto dragonbox::to_decimal(float x) noexcept -> dragonbox::decimal_fp<float>;
template auto dragonbox::to_decimal(double x) noexcept -> dragonbox::decimal_fp<double>;
template auto thousands_sep_impl(locale_ref) -> thousands_sep_result<char>;
template auto decimal_point_impl(locale_ref) -> char;
template void buffer<char>::append(const char *, const char *);
template void vformat_to(buffer<char> &, string_view, basic_format_args<FMT_BUFFER_CONTEXT(char)>,
                         locale_ref);

}  // namespace detail
FMT_END_NAMESPACE
