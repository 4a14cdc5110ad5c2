use burn::tensor::Device;

/// Where a model computes; decided once, when it is loaded.
#[derive(Debug, Clone)]
pub enum Place {
    /// Computes in the memory of this process, by the CPU kernels of this family, with weights where the file maps them. Tensors that cross
    /// crate borders are made on the given device, which must be a CPU device of burn.
    Host(Device),
    /// By burn tensors on this device: any GPU, and the CPU too. An autodiff device makes the weights trainable.
    Device(Device),
}

/// A [`Place`] without its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceKind {
    /// Host memory.
    Host,
    /// A device with memory of its own.
    Device,
}

impl Place {
    /// Which of both it is.
    pub fn kind(&self) -> PlaceKind {
        match self {
            Place::Host(_) => PlaceKind::Host,
            Place::Device(_) => PlaceKind::Device,
        }
    }

    /// The device of the tensors that cross crate borders.
    pub fn device(&self) -> &Device {
        match self {
            Place::Host(device) | Place::Device(device) => device,
        }
    }

    /// Whether the model computes in the memory of this process, by the kernels of this family.
    pub fn is_host(&self) -> bool {
        self.kind() == PlaceKind::Host
    }
}
