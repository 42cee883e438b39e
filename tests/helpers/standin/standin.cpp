// A device for torch that is not the CPU and needs no hardware; see standin.py beside this file.
//
// Its memory is ordinary memory that only it may touch: an operator runs on the CPU's kernels, after the check that a GPU
// makes for it: all its tensors lie on the device, or are numbers. Memory of the device is counted, and page-locked
// memory is registered.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>

namespace {

constexpr auto kind = c10::DeviceType::PrivateUse1;
const c10::Device device(kind, 0);

// ---- memory

struct Pool {
  std::mutex lock;
  std::unordered_map<void*, size_t> blocks;
  size_t now = 0, peak = 0, limit = SIZE_MAX;
};
Pool& on_device() { static auto* pool = new Pool; return *pool; }
Pool& pinned() { static auto* pool = new Pool; return *pool; }

void* take(Pool& pool, size_t n) {
  std::lock_guard<std::mutex> guard(pool.lock);
  TORCH_CHECK_WITH(OutOfMemoryError, pool.now + n <= pool.limit, "the stand-in is out of memory. Tried to allocate ", n, " bytes");
  void* block = nullptr;
  if (n == 0) return block;
  TORCH_CHECK(posix_memalign(&block, 64, n) == 0, "no memory");
  pool.blocks[block] = n;
  pool.now += n;
  pool.peak = std::max(pool.peak, pool.now);
  return block;
}

void give(Pool& pool, void* block) {
  std::lock_guard<std::mutex> guard(pool.lock);
  auto found = pool.blocks.find(block);
  if (found == pool.blocks.end()) return;
  pool.now -= found->second;
  pool.blocks.erase(found);
  std::free(block);
}

void give_device(void* block) { give(on_device(), block); }
void give_pinned(void* block) { give(pinned(), block); }

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    void* block = take(on_device(), n);
    return {block, block, &give_device, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_device; }
  void copy_data(void* to, const void* from, size_t n) const override { default_copy_data(to, from, n); }
};
DeviceAllocator device_allocator;
REGISTER_ALLOCATOR(kind, &device_allocator);

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    void* block = take(pinned(), n);
    return {block, block, &give_pinned, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_pinned; }
  void copy_data(void* to, const void* from, size_t n) const override { default_copy_data(to, from, n); }
};
PinnedAllocator pinned_allocator;

// ---- the device as such

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kind; }
  c10::Device exchangeDevice(c10::Device) const override { return device; }
  c10::Device getDevice() const override { return device; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getNewStream(c10::Device, int) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Generator final : at::CPUGeneratorImpl {
  Generator() { device_ = c10::Device(kind, 0); key_set_ = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1); }
};
const at::Generator& default_generator() {
  static auto* generator = new at::Generator(at::make_generator<Generator>());
  return *generator;
}

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return default_generator(); }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::make_generator<Generator>(); }
  at::Device getDeviceFromPtr(void*) const override { return device; }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  bool isPinnedPtr(const void* data) const override {
    std::lock_guard<std::mutex> guard(pinned().lock);
    for (const auto& [block, n] : pinned().blocks)
      if (data >= block && data < static_cast<const char*>(block) + n) return true;
    return false;
  }
};

// ---- operators

// The tensor's memory as a tensor of the CPU.
at::Tensor on_cpu(const at::Tensor& tensor) {
  if (!tensor.device().is_privateuseone()) return tensor;
  auto options = tensor.options().device(c10::DeviceType::CPU);
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), options);
}

at::Tensor empty(
    c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device>,
    std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(
      C10_AS_INTARRAYREF_SLOW(size), &device_allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
      c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &device_allocator,
      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool) {
  on_cpu(to).copy_(on_cpu(self));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& to) {
  at::native::resize_output(to, self.sizes());
  return copy_from(self, to, false);
}

const at::Tensor& resize(const at::Tensor& self, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  auto* tensor = self.unsafeGetTensorImpl();
  auto wanted = C10_AS_INTARRAYREF_SLOW(size);
  tensor->set_sizes_contiguous(wanted);
  if (format && *format != at::MemoryFormat::Preserve) tensor->empty_tensor_restride(*format);
  const size_t bytes = (tensor->storage_offset() + tensor->numel()) * tensor->itemsize();
  auto storage = tensor->storage();
  if (bytes > storage.nbytes()) {
    auto block = device_allocator.allocate(bytes);
    if (storage.nbytes()) std::memcpy(block.get(), storage.data(), storage.nbytes());
    storage.set_data_ptr_noswap(std::move(block));
    storage.set_nbytes(bytes);
  }
  return self;
}

at::Tensor& set_storage(
    at::Tensor& self, at::Storage source, c10::SymInt offset, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  auto* tensor = self.unsafeGetTensorImpl();
  tensor->set_storage_keep_dtype(std::move(source));
  tensor->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), offset.expect_int());
  return self;
}

at::Tensor& set_whole_storage(at::Tensor& self, at::Storage source) {
  const int64_t n = source.nbytes() / self.itemsize();
  auto* tensor = self.unsafeGetTensorImpl();
  tensor->set_storage_keep_dtype(std::move(source));
  tensor->set_sizes_contiguous({n});
  return self;
}

at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef size) {
  return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
}

at::Tensor as_strided(
    const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  auto at = offset ? std::optional<int64_t>(offset->expect_int()) : std::nullopt;
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), at);
}

at::Scalar number(const at::Tensor& self) { return on_cpu(self).item(); }

at::Tensor moved(const at::Tensor& tensor) { return tensor.defined() ? tensor.to(device) : tensor; }

at::Tensor convolution(
    const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding, int64_t groups) {
  auto added = bias && bias->defined() ? std::optional<at::Tensor>(on_cpu(*bias)) : std::nullopt;
  return moved(at::convolution(
      on_cpu(input), on_cpu(weight), added, stride, padding, dilation, transposed, output_padding, groups));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& gradient, const at::Tensor& input, const at::Tensor& weight, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding, int64_t groups,
    std::array<bool, 3> wanted) {
  int64_t channels = gradient.size(1);
  auto [of_input, of_weight, of_bias] = at::convolution_backward(
      on_cpu(gradient), on_cpu(input), on_cpu(weight), at::IntArrayRef(channels), stride, padding, dilation, transposed,
      output_padding, groups, wanted);
  return {moved(of_input), moved(of_weight), moved(of_bias)};
}

// A GPU takes indices from the CPU, and writes a number or a mask from there.
const std::set<std::string> mixed = {
    "aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_", "aten::index_put", "aten::index.Tensor_out"};

void check(const c10::OperatorHandle& op, const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.device().is_privateuseone() || tensor.dim() == 0) return;
  std::string name = op.schema().operator_name().name;
  if (!op.schema().operator_name().overload_name.empty()) name += "." + op.schema().operator_name().overload_name;
  TORCH_CHECK(mixed.count(name) > 0, "Expected all tensors to be on the same device, but ", name, " got one on ",
              tensor.device(), " of shape ", tensor.sizes());
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  for (const auto& value : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (value.isTensor()) check(op, value.toTensor());
    else if (value.isTensorList())
      for (const at::Tensor& tensor : value.toTensorVector()) check(op, tensor);
    else if (value.isOptionalTensorList())
      for (const auto& tensor : value.toOptionalTensorList().vec())
        if (tensor) check(op, *tensor);
  }
  at::native::cpu_fallback(op, stack);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("resize_", &resize);
  m.impl("set_.source_Storage", &set_whole_storage);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("view", &view);
  m.impl("as_strided", &as_strided);
  m.impl("_local_scalar_dense", &number);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
}

#define LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define HIGHER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  AT_FORALL_LOWER_PRECISION_FP(LOWER)
  AT_FORALL_FP32(HIGHER)
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  m.def("generator", [] { return default_generator(); });
  m.def("peak", [] { return on_device().peak; });
  m.def("allocated", [] { return on_device().now; });
  m.def("reset_peak", [] { on_device().peak = on_device().now; });
  m.def("limit", [](std::optional<size_t> bytes) { on_device().limit = bytes.value_or(SIZE_MAX); });
}
