// Linear layers whose weights oneDNN has packed for this processor. The operations are libtorch's own. Its C++ headers do not
// declare them, so they are called by their names. Each function returns a new tensor. If it fails, it returns null and a
// message that the caller frees.

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/stack.h>

#include <cstring>
#include <exception>
#include <optional>
#include <string>

namespace {

template <typename Arguments>
at::Tensor* call(const char* name, char** message, Arguments arguments) {
    try {
        torch::jit::Stack stack = arguments();
        c10::Dispatcher::singleton().findSchemaOrThrow(name, "").callBoxed(stack);
        return new at::Tensor(stack.at(0).toTensor());
    } catch (const std::exception& error) {
        *message = strdup(error.what());
        return nullptr;
    }
}

}  // namespace

// `weight` is `[outputs, inputs]`.
extern "C" at::Tensor* atedm_tch_pack(const at::Tensor* weight, char** message) {
    return call("mkldnn::_reorder_linear_weight", message, [&] { return torch::jit::Stack{*weight, c10::IValue()}; });
}

// `bias` may be null.
extern "C" at::Tensor* atedm_tch_packed_linear(
    const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias, char** message) {
    return call("mkldnn::_linear_pointwise", message, [&] {
        const c10::List<std::optional<at::Scalar>> no_scalars;
        return torch::jit::Stack{
            *x, *weight, bias ? c10::IValue(*bias) : c10::IValue(), std::string("none"), no_scalars, std::string()};
    });
}
